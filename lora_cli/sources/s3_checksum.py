"""The checksum that S3 keeps of an object, where that is the sha256 of all its bytes."""

import base64
import binascii
import logging
import os
import time
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from lora_cli.sources.aws import TRUE, Account
from lora_cli.sources.aws_signature import object_url, signed_head
from lora_cli.sources.connection import Transient, from_status, send
from lora_cli.sources.http import wait_or_give_up
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.snapshot import RemoteFile
    from lora_cli.settings import Settings

HEADER = "x-amz-checksum-sha256"

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


def _asked(account: Account, bucket: str, key: str, file: "RemoteFile", timeout_s: float) -> Mapping[str, str]:
    url = _url(account, bucket, key)
    headers: Mapping[str, str] = {
        "x-amz-checksum-mode": "ENABLED",
        "if-match": f'"{file.version.removeprefix("etag:")}"',
        **({"x-amz-request-payer": "requester"} if account.requester_pays else {}),
    }
    if account.keys is not None:
        headers = signed_head(url, headers, account.keys(), account.region)
    with closing(send(url, headers, timeout_s, method="HEAD")) as response:
        status, said = response.status, response.headers
    if status in (408, 429) or status >= 500:
        raise from_status(host(url), status, said)
    if status != 200:
        # Whoever may not ask for a checksum may still read the object.
        log.debug("%s answers %d to the question for a checksum", host(url), status)
        return {}
    return _hexadecimal(said.get(HEADER, ""))


def _hexadecimal(text: str) -> Mapping[str, str]:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return {}
    return {HEADER: digest.hex()} if len(digest) == 32 else {}


def _url(account: Account, bucket: str, key: str) -> str:
    """The address of an object, as obstore makes it from the same settings."""
    in_host = os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in TRUE
    if account.endpoint:
        return object_url(account.endpoint, bucket, key, in_host=in_host)
    aws = f"https://{f'{bucket}.' if in_host else ''}s3.{account.region}.amazonaws.com"
    return object_url(aws, bucket, key, in_host=in_host)
