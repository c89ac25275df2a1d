"""The checksum that S3 keeps of an object, where that is the sha256 of all its bytes.

obstore does not tell it. It comes along with a whole object, and is asked for where an object is read in ranges.
"""

import base64
import binascii
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from lora_cli.errors import Changed, Corrupt
from lora_cli.sources.aws import TRUE, Account
from lora_cli.sources.aws_signature import object_url, signed
from lora_cli.sources.connection import Transient, from_status, paced, send
from lora_cli.sources.http import AGAIN, wait_or_give_up
from lora_cli.sources.object_errors import refusal
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.snapshot import RemoteFile
    from lora_cli.settings import Settings
    from lora_cli.sources.pool import Response

HEADER = "x-amz-checksum-sha256"
REFUSAL_BYTES = 16 * 1024

log = logging.getLogger(__name__)


def may_have_one(file: "RemoteFile") -> bool:
    """Whether S3 can have a sha256 of all of it: one that came in parts (``etag-N``) has none."""
    return file.version.startswith("etag:") and "-" not in file.version


def checksum(
    account: Account, bucket: str, key: str, file: "RemoteFile", what: str, settings: "Settings"
) -> Mapping[str, str]:
    """``x-amz-checksum-sha256`` → hexadecimal digits, as S3 has it for this version of the object; empty for none.

    Raises:
        Unreachable: network or server, after the retries.
    """
    failures = 0
    while True:
        try:
            return _asked(account, bucket, key, file, settings.timeout_s)
        except Transient as failure:
            failures += 1
            wait_or_give_up(settings.retries, time.sleep, what, failure, failures)


def whole(account: Account, bucket: str, key: str, file: "RemoteFile", what: str, timeout_s: float) -> "Response":
    """The answer to a GET of all of this version of the object; whoever has it closes it.

    Raises:
        Transient: network or server.
        Answered: an answer that another try would not change.
        Changed: it is of another version.
    """
    response = _sent("GET", account, bucket, key, file, timeout_s)
    try:
        _check(response, file, what, timeout_s)
    except BaseException:
        response.close()
        raise
    return response


def _check(response: "Response", file: "RemoteFile", what: str, timeout_s: float) -> None:
    """Whether it is an answer that holds this version of the object; raises as ``whole``."""
    headers, size = response.headers, str(file.size)
    if response.status != 200:
        raise refusal(host(response.url), response.status, headers, _told(response, timeout_s))
    etag = headers.get("ETag", "").removeprefix("W/").strip('"')
    if f"etag:{etag}" != file.version or headers.get("Content-Length", size) != size:
        raise Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)


def body(response: "Response", size: int, what: str, timeout_s: float) -> Iterator[bytes]:
    """The bytes of an answer that has ``size`` of them, as they come.

    Raises:
        Transient: it breaks, is silent, or trickles.
        Corrupt: there are more.
    """
    for chunk in paced(response, timeout_s):
        size -= len(chunk)
        if size < 0:
            raise Corrupt(f"{what}: more bytes came than it has", hint=AGAIN)
        yield chunk


def hexadecimal(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The checksum among the headers of an answer as hexadecimal digits; empty for none, and for what is no sha256."""
    try:
        digest = base64.b64decode(headers.get(HEADER, ""), validate=True)
    except (binascii.Error, ValueError):
        return {}
    return {HEADER: digest.hex()} if len(digest) == 32 else {}


def _asked(account: Account, bucket: str, key: str, file: "RemoteFile", timeout_s: float) -> Mapping[str, str]:
    with closing(_sent("HEAD", account, bucket, key, file, timeout_s)) as response:
        server, status, said = host(response.url), response.status, response.headers
    if status in (408, 429) or status >= 500:
        raise from_status(server, status, said)
    if status != 200:
        # Whoever may not ask for a checksum may still read the object.
        log.debug("%s answers %d to the question for a checksum", server, status)
        return {}
    return hexadecimal(said)


def _sent(method: str, account: Account, bucket: str, key: str, file: "RemoteFile", timeout_s: float) -> "Response":
    url = _url(account, bucket, key)
    headers: Mapping[str, str] = {
        "x-amz-checksum-mode": "ENABLED",
        "if-match": f'"{file.version.removeprefix("etag:")}"',
        **({"x-amz-request-payer": "requester"} if account.requester_pays else {}),
    }
    if account.keys is not None:
        headers = signed(method, url, headers, account.keys(), account.region)
    return send(url, headers, timeout_s, method=method)


def signed_look(account: Account, bucket: str) -> tuple[str, Mapping[str, str]]:
    """The address and the headers of a HEAD of a bucket."""
    url = _url(account, bucket, "")
    return url, signed("HEAD", url, {}, account.keys(), account.region) if account.keys is not None else {}


def _told(response: "Response", timeout_s: float) -> str:
    """The beginning of what a refusal says."""
    text = b""
    for chunk in paced(response, timeout_s):
        text += chunk
        if len(text) >= REFUSAL_BYTES:
            break
    return text[:REFUSAL_BYTES].decode("utf-8", "replace")


def _url(account: Account, bucket: str, key: str) -> str:
    """The address of an object, as obstore makes it from the same settings."""
    in_host = os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in TRUE
    if account.endpoint:
        return object_url(account.endpoint, bucket, key, in_host=in_host)
    aws = f"https://{f'{bucket}.' if in_host else ''}s3.{account.region}.amazonaws.com"
    return object_url(aws, bucket, key, in_host=in_host)
