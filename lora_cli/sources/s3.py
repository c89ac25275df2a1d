"""Amazon S3, and every server with the same API: botocore's client, whose requests go over our transport."""

import base64
import binascii
import io
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from lora_cli.core.log import logger
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.daemon_threads import run_in_thread
from lora_cli.errors import Changed, Refused
from lora_cli.redaction import remember
from lora_cli.settings import Settings
from lora_cli.sources import NoRanges
from lora_cli.sources.aws import Account, botocore_errors, find_account, translate_error
from lora_cli.sources.http import AGAIN, FAR, body_offset, bounded_body, host, trim
from lora_cli.sources.listed_paths import ListingBudget
from lora_cli.sources.object_store import (
    NETWORK,
    PAGE,
    Bucket,
    Entry,
    ObjectSource,
    Page,
    StoreError,
    StoreTerms,
    object_key,
    version_key,
    version_of,
)
from lora_cli.sources.retries import Retries, Transient, from_status, printable

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule
    from lora_cli.sources.transport import Response

MOST_CHECKSUM_REQUESTS = 16
"""How many checksums are asked for at once, next to the bytes."""

HEADER_READ = 1 << 20
"""A read of less than this from the beginning of a larger file is of its header, and needs no checksum."""

CHECKSUM = "x-amz-checksum-sha256"
MOST_BYTES = 4 << 20
"""A page of 1000 keys of 1024 bytes, most of them escaped, has fewer."""

MOST_TAGS = 60_000
"""How many tags and attributes has one page: one of 1000 objects has some 28 000."""

_LISTING = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<ListBucketResult[\s/>]")
"""How a listing begins: there is no DTD, whose entities could grow."""

_NO_SIZE = re.compile(rb"<Size>(?![0-9]{1,19}</Size>)")
_CODE, _REGION = re.compile(r"[A-Za-z0-9.]{1,64}"), re.compile(r"[a-z0-9-]{1,32}")
_EXPIRED = ("no longer accepts the session from {}", "renew it: `aws sso login`, or new keys")
_KEYS = {
    "InvalidAccessKeyId": ("does not recognise the access key from {}", "check which account and endpoint it is for"),
    "SignatureDoesNotMatch": (
        "does not accept the secret of the key from {}",
        "check AWS_SECRET_ACCESS_KEY, or the profile's",
    ),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
}
WORDS = StoreTerms(
    endpoint="AWS_ENDPOINT_URL",
    region="AWS_REGION",
    anonymous="unset AWS_SKIP_SIGNATURE",
    rights="s3:ListBucket on {0} and s3:GetObject on its objects",
    credentials=_KEYS,
)
log = logger(__name__)
SMALL_BYTES = 1 << 18
_large_listings = threading.BoundedSemaphore(4)
"""How many listings of more than that are received, and in memory, at once."""

_parsing = threading.RLock()
"""One listing at a time is parsed: it takes many times the memory of its text."""


class S3Client:
    """botocore's client, whose requests our transport sends, within its bounds. Threads share it."""

    def __init__(self, account: Account, timeout_s: float) -> None:
        """Asks for nothing yet; a server may be silent for ``timeout_s``."""
        self.account, self.timeout_s = account, timeout_s
        self._sent = threading.local()
        account.client.meta.events.register("before-send.s3", self._send)

    def ask(self, operation: str, **parameters: Any) -> tuple[Mapping[str, Any], "Response"]:
        """Botocore's result of ``operation``, and the response; the caller closes that of ``get_object``.

        Raises:
            Transient: network or server, or what came is no listing.
            StoreError: an answer that another try would not change.
            LoraCliError: the credentials can no longer be used.
        """
        from botocore.exceptions import ClientError
        from botocore.parsers import ResponseParserError

        if self.account.requester_pays:
            parameters["RequestPayer"] = "requester"
        self._sent.response = None
        with ExitStack() as self._sent.until_parsed:
            try:
                return getattr(self.account.client, operation)(**parameters), self._sent.response
            except (ClientError, ResponseParserError, *botocore_errors()) as error:
                response = self._sent.response
                if response is None:
                    raise translate_error(error) from error
                if response.status < 300 and operation != "list_objects_v2":
                    return {}, response  # of an object only the bytes and our own reading of its headers count
                if response.status < 300:
                    raise _no_listing(response) from error
                # What is no ClientError is a region that is none: nobody can follow there.
                raise (_answered(error) if isinstance(error, ClientError) else StoreError(response.status)) from error

    def _send(self, request: Any, event_name: str, **_: Any) -> Any:
        """Botocore's request as our transport sends it, and the answer as botocore reads it."""
        from botocore.awsrequest import AWSResponse

        from lora_cli.sources.transport import send

        if event_name.endswith(".HeadBucket"):
            # botocore asks for the region that a redirect does not name: for ever, where that is redirected too.
            return AWSResponse(request.url, 200, {}, _Body(b""))
        headers = {name: value if isinstance(value, str) else value.decode() for name, value in request.headers.items()}
        remember(headers.get("Authorization", "").rpartition("=")[2], passing=True)
        remember(headers.get("X-Amz-Security-Token", ""))
        response = self._sent.response = send(request.url, headers, self.timeout_s, method=request.method)
        if event_name.endswith(".GetObject") and response.status in (200, 206):
            body = b""
        else:
            with closing(response):
                body = self._body(response, is_head=request.method == "HEAD")
        return AWSResponse(request.url, response.status, response.headers, _Body(body))

    def _body(self, response: "Response", *, is_head: bool) -> bytes:
        """A listing, or the beginning of a refusal."""
        if response.status in (408, 429) or response.status >= 500:
            raise from_status(host(response.url), response.status, response.headers)
        if response.status != 200 or is_head:
            return b"".join(bounded_body(response, self.timeout_s, ""))
        body, is_large = bytearray(), False
        try:
            for chunk in bounded_body(response, self.timeout_s, "", MOST_BYTES):
                body += chunk
                if len(body) > SMALL_BYTES and not is_large:
                    is_large = True
                    self._sent.until_parsed.enter_context(_large_listings)
        except Refused as error:
            raise _no_listing(response) from error
        tags = body.count(b"<") + body.count(b"=")
        if tags > MOST_TAGS or _NO_SIZE.search(body) or not _LISTING.match(body):
            raise _no_listing(response)
        self._sent.until_parsed.enter_context(_parsing)
        return bytes(body)


class _Body(io.BytesIO):
    """A body that was read, as botocore reads one; it is not copied."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def stream(self) -> Iterable[bytes]:
        """As urllib3's answers have it."""
        return [self._body]


def _no_listing(response: "Response") -> Transient:
    return Transient(f"{host(response.url)} sent no listing", hint=NETWORK)


def _answered(error: Any) -> StoreError:
    """A refusal as botocore reads it."""
    fields, about = error.response.get("Error", {}), error.response["ResponseMetadata"]
    status, code, message = (
        about["HTTPStatusCode"],
        str(fields.get("Code", "")),
        printable(str(fields.get("Message", ""))),
    )
    if code == str(status):  # it says no more
        code = message = ""
    region = str(fields.get("Region") or about["HTTPHeaders"].get("x-amz-bucket-region", ""))
    return StoreError(
        status,
        code if _CODE.fullmatch(code) else "",
        message,
        region if _REGION.fullmatch(region) else "",
    )


class S3Bucket(Bucket):
    """A bucket of S3, and how it is asked. One that is in another region is asked there from then on, by botocore."""

    def __init__(self, client: S3Client, name: str) -> None:
        """Asks for nothing yet."""
        account = client.account
        super().__init__(name, host(account.endpoint) if account.endpoint else "S3", account.found_in)
        self._client = client

    def ask(self, operation: str, **parameters: Any) -> tuple[Mapping[str, Any], "Response"]:
        """As ``S3Client.ask``, in this bucket."""
        return self._client.ask(operation, Bucket=self.name, **parameters)

    def pages(self, prefix: str) -> Iterator[Page]:
        """As ``Bucket``.

        Raises:
            Transient: also where fewer than ``PAGE`` are listed in the time: pages may be short, and there may be any
                number of them.
        """
        token, count, spent_s = "", 0, 0.0
        while True:
            began_s, more = time.monotonic(), {"ContinuationToken": token} if token else {}
            listed, response = self.ask("list_objects_v2", Prefix=prefix, MaxKeys=PAGE, **more)
            token = listed.get("NextContinuationToken", "")
            page = Page(self._entries(listed, prefix, response), not listed.get("IsTruncated"))
            count, spent_s = count + len(page.entries), spent_s + time.monotonic() - began_s
            if "ResponseMetadata" not in listed or not (page.last or token):
                raise _no_listing(response)
            if page.entries or page.last:
                yield page
            if page.last:
                return
            if count >= PAGE:
                count, spent_s = 0, 0.0
            elif spent_s > self._client.timeout_s:
                message = f"the server of {self.name} listed only {count} objects in {spent_s:.0f} s"
                raise Transient(message, hint=NETWORK)

    def _entries(self, listed: Mapping[str, Any], prefix: str, response: "Response") -> list[Entry]:
        """The objects of one page that are below the prefix: some servers list others as well."""
        objects = listed.get("Contents", [])
        try:
            return list(self._below(prefix, objects, response))
        finally:
            objects.clear()  # an error may be kept for long, and keeps what this frame has

    def _below(self, prefix: str, objects: Sequence[Mapping[str, Any]], response: "Response") -> Iterator[Entry]:
        budget = ListingBudget(f"s3://{self.name}", "use the folder of one adapter")
        for one in objects:
            key, size, etag, changed = (one.get(name) for name in ("Key", "Size", "ETag", "LastModified"))
            if not key or size is None or not (etag or changed):
                raise _no_listing(response)
            if key.startswith(prefix):
                entry = Entry(key, size, version_of(etag or "", changed))
                budget.take(entry.key, entry.version)
                yield entry

    def has(self, key: str) -> bool:
        """As ``Bucket``."""
        try:
            return "ETag" in self.ask("head_object", Key=key)[1].headers
        except (StoreError, Transient):
            return False

    def open(self, key: str, file: RemoteFile, span: tuple[int, int], what: str, *, rest: bool) -> "Response":
        """The answer to a request for the range, else for all of the object: some servers say 200 and send the range.

        Raises:
            NoRanges: all would be sent, and what is wanted is neither near its beginning nor the ``rest``.
        """
        pinned = _pinned(file)
        if span != (0, file.size):
            response = self.ask("get_object", Key=key, Range=f"bytes={span[0]}-{span[1] - 1}", **pinned)[1]
            if response.status != 200:
                return response
            response.close()
            if span[0] >= FAR and not rest:
                hint = "fetch it: lora-cli fetch can read it as one stream"
                raise NoRanges(f"{what}: its server only sends whole files", hint=hint)
        return self.ask("get_object", Key=key, ChecksumMode="ENABLED", **pinned)[1]

    def checksum(self, key: str, file: RemoteFile) -> Mapping[str, str]:
        """``x-amz-checksum-sha256`` → hexadecimal digits, as S3 has it for this version of the object; empty for none.

        Raises:
            Transient: network or server.
        """
        try:
            _, response = self.ask("head_object", Key=key, ChecksumMode="ENABLED", **_pinned(file))
        except StoreError as answer:
            # Whoever may not ask for a checksum may still read the object.
            log.debug("%s answers %d to the request for a checksum", self.server, answer.status)
            return {}
        return _hexadecimal(response.headers)


def _pinned(file: RemoteFile) -> Mapping[str, str]:
    """The parameters that request this version of an object, where a condition can do that."""
    kind, _, etag = file.version.partition(":")
    return {"IfMatch": f'"{etag}"'} if kind == "etag" else {}


def _hexadecimal(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The checksum among the headers of an answer as hexadecimal digits; empty for none, and for what is no sha256."""
    try:
        digest = base64.b64decode(headers.get(CHECKSUM, ""), validate=True)
    except (binascii.Error, ValueError):
        return {}
    return {CHECKSUM: digest.hex()} if len(digest) == 32 else {}


class S3Source(ObjectSource[S3Bucket]):
    """Buckets of S3 as a source. Credentials are looked for when the first bucket is opened."""

    words = WORDS

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and looks for no credentials yet; ``rule`` says whose are used, and where."""
        super().__init__(settings)
        self._rule = rule
        self._client: S3Client | None = None
        self._checksums: dict[tuple[str, str, str], Future[Mapping[str, str]]] = {}
        self._checksum_slots = threading.BoundedSemaphore(MOST_CHECKSUM_REQUESTS)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """As ``ObjectSource``; next to the first range of a file that is fetched its checksum is asked for."""
        if start == 0 and stop is not None and HEADER_READ <= stop < (file.size or 0):
            self._ask_checksum(revision, file)
        return super().read(revision, file, start, stop)

    def _stream(
        self, bucket: S3Bucket, revision: Revision, file: RemoteFile, start: int, end: int, *, rest: bool
    ) -> Iterator[bytes]:
        """As ``ObjectSource``; a checksum comes along with all of an object."""
        key, what = object_key(revision.ref, file), f"{revision.ref}: {file.path}"
        with closing(bucket.open(key, file, (start, end), what, rest=rest)) as response:
            skip = _check(response, file, start, what)
            self._record_digest(revision, file, response.headers.get("x-amz-meta-sha256", ""))
            if (start, end) == (0, file.size) and _may_have_checksum(file):
                checksum = self._checksums[version_key(revision, file)] = Future()
                checksum.set_result(_hexadecimal(response.headers))
            yield from trim(response.chunks(), skip, end - start, what, exact=response.status == 206)

    def reported_digests(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 in the object's metadata, and the checksum that S3 keeps, if it has one of all the bytes."""
        checksum = self._ask_checksum(revision, file)
        return {**super().reported_digests(revision, file), **(checksum.result() if checksum is not None else {})}

    def _ask_checksum(self, revision: Revision, file: RemoteFile) -> "Future[Mapping[str, str]] | None":
        """The checksum, asked for once, in a daemon thread."""
        if not _may_have_checksum(file):
            return None
        bucket, retries = self._bucket(revision.ref), Retries(self._settings.retries)
        key, what = object_key(revision.ref, file), f"{revision.ref}: {file.path}"

        def ask() -> Mapping[str, str]:
            with self._checksum_slots:
                return retries.call(what, lambda: bucket.checksum(key, file))

        with self._lock:
            version = version_key(revision, file)
            if version not in self._checksums:
                self._checksums[version] = run_in_thread(ask, "checksum")
            return self._checksums[version]

    def _open(self, name: str) -> S3Bucket:
        if self._client is None:
            account = find_account(os.environ, self._rule)
            self._client = S3Client(account, self._settings.timeout_s)
        return S3Bucket(self._client, name)


def _may_have_checksum(file: RemoteFile) -> bool:
    """Whether S3 may have a sha256 that is not known yet: the digest of a lock is compared anyway.

    An object that came in parts (``etag-N``) has none of all its bytes.
    """
    return file.sha256 is None and file.version.startswith("etag:") and "-" not in file.version


def _check(response: "Response", file: RemoteFile, start: int, what: str) -> int:
    """The bytes of the body before byte ``start``. Raises ``Changed`` if it is of another version."""
    skip, total = body_offset(response, start, what)
    if _version(response) != file.version or total not in (None, file.size):
        raise Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)
    return skip


def _version(response: "Response") -> str:
    """The version of the object that an answer is of, as far as its headers say."""
    if etag := response.headers.get("ETag", ""):
        return version_of(etag, None)
    try:
        return version_of("", parsedate_to_datetime(response.headers.get("Last-Modified", "")))
    except (ValueError, OverflowError):
        return ""
