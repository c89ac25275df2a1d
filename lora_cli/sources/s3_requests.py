"""Requests to S3: signed, pinned to the version that was listed, and read as they come."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from lora_cli.errors import Changed, Corrupt
from lora_cli.redaction import remember
from lora_cli.sources import NoRanges
from lora_cli.sources.aws import TRUE, Account, Keys
from lora_cli.sources.buckets import version_of
from lora_cli.sources.http import AGAIN, FAR, Headers, beginning, placement
from lora_cli.sources.object_errors import refusal
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.snapshot import RemoteFile
    from lora_cli.sources.http_transport import Response

CHECKSUM = {"x-amz-checksum-mode": "ENABLED"}
"""Asks for the checksum, which comes with all of an object only."""


def pinned(file: "RemoteFile") -> Mapping[str, str]:
    """The headers that ask for this version of an object, as far as it is told apart from others before it comes."""
    kind, _, etag = file.version.partition(":")
    return {"if-match": f'"{etag}"'} if kind == "etag" else {}


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, who asks for it, and how long its server may be silent."""

    account: Account
    bucket: str
    timeout_s: float


def asked(place: Place, method: str, key: str, more: Mapping[str, str] | None = None, *, query: str = "") -> "Response":
    """The answer to a request for an object, or with no ``key`` for the bucket; whoever has it closes it.

    ``query`` has its names in order, and everything in it is encoded, as signatures want it.

    Raises:
        Transient: network or server.
    """
    account = place.account
    url = _url(place, key) + (f"?{query}" if query else "")
    headers: Mapping[str, str] = {
        **(more or {}),
        **({"x-amz-request-payer": "requester"} if account.requester_pays else {}),
    }
    if account.keys is not None:
        headers = _signed(method, url, headers, account.keys(), account.region)
    from lora_cli.sources.http_transport import send

    return send(url, headers, place.timeout_s, method=method)


@contextmanager
def reading(
    place: Place, key: str, file: "RemoteFile", span: tuple[int, int], what: str, *, rest: bool
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
    with _answer(place, key, file, span, what, rest=rest) as response:
        if response.status not in (200, 206):
            raise refusal(host(response.url), response.status, response.headers, told(response))
        skip = _check(response, file, start, what)
        yield response.headers, _body(response, skip, stop - start, what)


@contextmanager
def _answer(
    place: Place, key: str, file: "RemoteFile", span: tuple[int, int], what: str, *, rest: bool
) -> "Iterator[Response]":
    """The answer to a request for the range, else for all of the object: some servers say 200 and send the range."""
    if span != (0, file.size):
        ranged = {**pinned(file), "Range": f"bytes={span[0]}-{span[1] - 1}"}
        with closing(asked(place, "GET", key, ranged)) as response:
            if response.status != 200:
                yield response
                return
            if span[0] >= FAR and not rest:
                hint = "fetch it: lora-cli fetch reads it as one stream"
                raise NoRanges(f"{what}: its server sends whole files only", hint=hint)
    with closing(asked(place, "GET", key, {**pinned(file), **CHECKSUM})) as response:
        yield response


def _check(response: "Response", file: "RemoteFile", start: int, what: str) -> int:
    """How many bytes of the body come before byte ``start`` of this version of the object; raises when it is not."""
    skip, total = placement(response, start, what)
    if _version(response) != file.version or total not in (None, file.size):
        raise Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)
    return skip


def _body(response: "Response", skip: int, left: int, what: str) -> Iterator[bytes]:
    """``left`` bytes of the body after the first ``skip``; what follows where all was sent is left there."""
    exact = response.status == 206
    for chunk in response.encoded_chunks():
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


def _version(response: "Response") -> str:
    """The version of the object that an answer is of, as far as its headers say."""
    if etag := response.headers.get("ETag", ""):
        return version_of(etag, None)
    from email.utils import parsedate_to_datetime

    try:
        return version_of("", parsedate_to_datetime(response.headers.get("Last-Modified", "")))
    except (ValueError, OverflowError):
        return ""


def told(response: "Response") -> str:
    """The beginning of what a refusal says."""
    return beginning(response).decode("utf-8", "replace")


def _url(place: Place, key: str) -> str:
    """The address of an object; of the bucket when there is no key."""
    account, bucket = place.account, place.bucket
    in_host = os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in TRUE
    if account.endpoint:
        return object_url(account.endpoint, bucket, key, in_host=in_host)
    aws = f"https://{f'{bucket}.' if in_host else ''}s3.{account.region}.amazonaws.com"
    return object_url(aws, bucket, key, in_host=in_host)


def object_url(base: str, bucket: str, key: str, *, in_host: bool = False) -> str:
    """The address of an object at ``base``; with ``in_host`` the bucket is in its name already, else in the path."""
    path = key if in_host else f"{bucket}/{key}"
    return f"{base.rstrip('/')}/{quote(path, safe='/-_.~')}"


def _signed(method: str, url: str, headers: Mapping[str, str], keys: Keys, region: str) -> Mapping[str, str]:
    """``headers``, and those that sign a request without a body for S3 in ``region`` (Signature Version 4)."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method, url, headers=dict(headers), data=b"")
    S3SigV4Auth(keys, "s3", region).add_auth(request)
    remember(request.headers["Authorization"].rpartition("=")[2], passing=True)
    return dict(request.headers.items())
