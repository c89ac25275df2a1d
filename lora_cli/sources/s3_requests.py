"""Requests to S3 that are made here and not by obstore: those whose headers count, and those for bytes.

obstore gives a body in pieces as small as they come, each at the price of a thread's turn, and no headers with it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from lora_cli.errors import Changed, Corrupt
from lora_cli.sources import NoRanges
from lora_cli.sources.aws import TRUE, Account
from lora_cli.sources.aws_signature import object_url, signed
from lora_cli.sources.connection import paced, send
from lora_cli.sources.http import AGAIN, FAR, Headers, placement
from lora_cli.sources.object_errors import refusal
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.snapshot import RemoteFile
    from lora_cli.sources.pool import Response

REFUSAL_BYTES = 16 * 1024
CHECKSUM = {"x-amz-checksum-mode": "ENABLED"}
"""Asks for the checksum, which comes with all of an object only."""


def is_told_apart(file: "RemoteFile") -> bool:
    """Whether an answer's headers can say that it is of the version that was listed."""
    return file.version.startswith("etag:")


def asked(
    method: str,
    account: Account,
    bucket: str,
    key: str,
    file: "RemoteFile",
    timeout_s: float,
    more: Mapping[str, str] | None = None,
) -> "Response":
    """The answer to a request for this version of the object, whatever it is; whoever has it closes it.

    Raises:
        Transient: network or server.
    """
    url = _url(account, bucket, key)
    headers: Mapping[str, str] = {
        **(more or {}),
        "if-match": f'"{file.version.removeprefix("etag:")}"',
        **({"x-amz-request-payer": "requester"} if account.requester_pays else {}),
    }
    if account.keys is not None:
        headers = signed(method, url, headers, account.keys(), account.region)
    return send(url, headers, timeout_s, method=method)


@contextmanager
def reading(
    account: Account,
    bucket: str,
    key: str,
    file: "RemoteFile",
    span: tuple[int, int],
    what: str,
    timeout_s: float,
    *,
    rest: bool,
) -> "Iterator[tuple[Headers, Iterator[bytes]]]":
    """The headers of the answer, and the bytes ``span`` (start, stop) of this version of the object as they come.

    With ``rest`` they are the rest of it, for which a server that knows no ranges may send all of it.

    Raises:
        Transient: network or server; while the bytes are read also that they break off, are silent, or trickle.
        Answered: an answer that another try would not change.
        Changed: the object is another version.
        Corrupt: another range was sent, or more than was asked for.
        NoRanges: all was sent, and what is wanted is neither near its beginning nor the ``rest``.
    """
    start, stop = span
    with _answer(account, bucket, key, file, span, what, timeout_s, rest=rest) as response:
        if response.status not in (200, 206):
            raise refusal(host(response.url), response.status, response.headers, _told(response, timeout_s))
        skip = _check(response, file, start, what)
        yield response.headers, _body(response, skip, stop - start, what, timeout_s)


@contextmanager
def _answer(
    account: Account,
    bucket: str,
    key: str,
    file: "RemoteFile",
    span: tuple[int, int],
    what: str,
    timeout_s: float,
    *,
    rest: bool,
) -> "Iterator[Response]":
    """The answer to a request for the range, else for all of the object: some servers say 200 and send the range."""
    if span != (0, file.size):
        ranged = {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        with closing(asked("GET", account, bucket, key, file, timeout_s, ranged)) as response:
            if response.status != 200:
                yield response
                return
            if span[0] >= FAR and not rest:
                hint = "fetch it: lora-cli fetch reads it as one stream"
                raise NoRanges(f"{what}: its server sends whole files only", hint=hint)
    with closing(asked("GET", account, bucket, key, file, timeout_s, CHECKSUM)) as response:
        yield response


def _check(response: "Response", file: "RemoteFile", start: int, what: str) -> int:
    """How many bytes of the body come before byte ``start`` of this version of the object; raises when it is not."""
    etag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
    skip, total = placement(response, start, what)
    if f"etag:{etag}" != file.version or total not in (None, file.size):
        raise Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)
    return skip


def _body(response: "Response", skip: int, left: int, what: str, timeout_s: float) -> Iterator[bytes]:
    """``left`` bytes of the body after the first ``skip``; what follows where all was sent is left there."""
    exact = response.status == 206
    for chunk in paced(response, timeout_s):
        kept = chunk[skip:] if skip else chunk
        skip = max(0, skip - len(chunk))
        if len(kept) > left:
            if exact:
                raise Corrupt(f"{what}: more bytes came than were asked for", hint=AGAIN)
            kept = kept[:left]
        left -= len(kept)
        if kept:
            yield kept
        if not left and not exact:
            return


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
