"""Adapters in object stores: a prefix is a folder, and every range is pinned to the version that was listed."""

import hashlib
import re
import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import ClassVar, Generic, NamedTuple, TypeVar

from lora_cli.core.grouping import by_key
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import (
    AccessDenied,
    Changed,
    LoraCliError,
    MachineError,
    NotFound,
    Refused,
    Unreachable,
    UsageError,
)
from lora_cli.settings import Settings
from lora_cli.sources.http import AGAIN
from lora_cli.sources.listed_paths import ListingBudget, check_listed
from lora_cli.sources.retries import Retries, Transient

NETWORK = "check the network, HTTPS_PROXY and the endpoint (AWS_ENDPOINT_URL for S3)"
NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_WRONG_REGION = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "Redirect"})


class StoreError(Exception):
    """An answer of the server that another try would not change.

    ``code`` and ``message`` are the server's own, made printable; ``region`` is the one that it names, if any.
    """

    def __init__(self, status: int, code: str = "", message: str = "", region: str = "") -> None:
        super().__init__(f"{status} {code}".strip())
        self.status, self.code, self.message, self.region = status, code, message, region


@dataclass(frozen=True, slots=True)
class StoreTerms:
    """The terms of one kind of store, for hints.

    ``credentials`` maps a code of the server to what it says of them and what to try; ``{}`` stands for where they are
    from. ``rights`` is what a reader needs, ``{}`` stands for the bucket. ``bucket`` is what the store calls one.
    """

    endpoint: str
    region: str
    anonymous: str
    rights: str
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    bucket: str = "bucket"


PAGE = 1000
"""The most objects of one answer to a question for a listing."""


class Entry(NamedTuple):
    """One object as it is listed; ``version`` is its ETag (``etag:…``), else its time of change (``time:…``)."""

    key: str
    size: int
    version: str


class Page(NamedTuple):
    """At most ``PAGE`` objects of a listing, in its order; ``last`` when no more follow."""

    entries: list[Entry]
    last: bool


class Bucket(ABC):
    """One bucket, open. Threads share it.

    ``server`` is what messages call its server, ``user`` where the credentials are from ("nobody" without any).
    """

    def __init__(self, name: str, server: str, user: str) -> None:
        self.name, self.server, self.user = name, server, user

    @abstractmethod
    def pages(self, prefix: str) -> Iterator[Page]:
        """All objects below ``prefix``, page by page, each asked for when it is wanted.

        Raises:
            Transient: network or server; each page must come within the timeout.
            StoreError: an answer that another try would not change.
        """

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether there is such an object, according to the server."""

    def with_retry_after(self, failure: Transient) -> Transient:
        """``failure`` with the time that the server asks to wait, where that is not known yet."""
        return failure


def translate_error(error: StoreError, bucket: Bucket, what: str, words: StoreTerms) -> LoraCliError:
    """Translates an error that a retry would not change; ``what`` begins the message."""
    server, code = bucket.server, error.code
    if code in NO_BUCKET:
        hint = f"check the spelling, and the endpoint ({words.endpoint})"
        return NotFound(f"{what}: there is no {words.bucket} {bucket.name} at {server}", hint=hint)
    if error.status in (301, 307) or code in _WRONG_REGION:
        region = error.region or "REGION, the region of the bucket"
        return NotFound(f"{what}: the bucket {bucket.name} is in another region", hint=f"set {words.region}={region}")
    if code == "RequestTimeTooSkewed":
        return MachineError(
            f"{what}: {server} and this machine have different times", hint="set the clock of this machine"
        )
    if error.status in (401, 403) or code in words.credentials or code == "AccessDenied":
        return _denied(error, bucket, what, words)
    answer = " ".join(filter(None, (str(error.status), code, error.message)))
    if error.status == 404:
        hint = f"check the spelling, and whether the endpoint ({words.endpoint}) is the right one"
        return NotFound(f"{what}: not found on {server} ({answer})", hint=hint)
    hint = f"check the endpoint ({words.endpoint}), or try again later"
    return Unreachable(f"{what}: {server} answered {answer}", hint=hint)


def _denied(error: StoreError, bucket: Bucket, what: str, words: StoreTerms) -> LoraCliError:
    if error.code in words.credentials:
        wrong, hint = words.credentials[error.code]
        return AccessDenied(f"{what}: {bucket.server} {wrong.format(bucket.user)}", hint=hint)
    detail = f": {error.message}" if error.message else ""
    if bucket.user == "nobody":
        hint = f"it is not public: {words.anonymous}, and set credentials"
        return AccessDenied(f"{what}: {bucket.server} denies access without credentials{detail}", hint=hint)
    forbidden = f"{what}: {bucket.server} denies access with the credentials from {bucket.user}{detail}"
    return AccessDenied(forbidden, hint=f"it needs {words.rights.format(bucket.name)}")


def version_of(etag: str, changed: datetime | None) -> str:
    """The version of an object; some servers leave out the quotes of an ETag."""
    plain = etag.removeprefix("W/").strip('"')
    return f"etag:{plain}" if plain else f"time:{changed.isoformat(timespec='seconds') if changed else ''}"


SPARED = 4
"""The least folders that a page must list completely; else each is listed alone: a bucket may have many others."""

END = Page([], last=True)

FRESH_S = 60.0
"""How long the listing of a folder is used."""

log = logger(__name__)


def listed(bucket: Bucket, prefix: str, what: str) -> list[Entry]:
    """All objects below ``prefix``.

    Raises:
        Transient, StoreError: what the server says.
        Refused: there are over 10 000, or their names take over 2 MiB.
    """
    found, budget = list[Entry](), ListingBudget(what, "use the folder of one adapter")
    for page in bucket.pages(prefix):
        for entry in page.entries:
            budget.take(entry.key, entry.version)
        found += page.entries
    return found


class BatchListing:
    """Folders of one bucket that are asked for in one run: a page of their listing stands for many questions.

    ``folders`` are their prefixes, each with a slash at its end. Each is given once: who asks again wants to know what
    is there now. Threads share it.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._left = sorted({folder for folder in folders if folder})
        self._above, self._last = _common(self._left), ""
        self._pages: Iterator[Page] | None = None
        self._found: dict[str, tuple[float, list[Entry]]] = {}
        self._lock = threading.Lock()

    def take(self, bucket: Bucket, folder: str) -> list[Entry] | None:
        """The objects below ``folder`` as listed a moment ago; None if it must be listed alone."""
        with self._lock:
            while folder not in self._found and self._is_left(folder):
                if len(self._left) < SPARED:
                    self._left = []
                    break
                try:
                    self._turn_page(bucket)
                except (Transient, StoreError) as failure:
                    # Whoever may list a folder need not be allowed to list those beside it.
                    log.debug("%s: folders are listed one by one (%s)", bucket.server, failure)
                    self._left = []
            asked_at, found = self._found.pop(folder, (0.0, None))
        return found if found is not None and time.monotonic() - asked_at < FRESH_S else None

    def _is_left(self, folder: str) -> bool:
        at = bisect_left(self._left, folder)
        return at < len(self._left) and self._left[at] == folder

    def _turn_page(self, bucket: Bucket) -> None:
        """One page more of what is above all of them. A folder that it does not hold whole is left out."""
        self._pages = self._pages or bucket.pages(self._above)
        asked_at, page = time.monotonic(), next(self._pages, END)
        entries = page.entries
        if page.last:
            entries, passed, left = sorted(entries), self._left, []
        else:
            last = entries[-1].key
            at = bisect_left(self._left, last)
            passed, left = [folder for folder in self._left[:at] if not last.startswith(folder)], self._left[at:]
        keys = [entry.key for entry in entries]
        in_order = all(one <= other for one, other in pairwise([self._last, *keys]))
        self._last = keys[-1] if keys else ""
        self._left = left if in_order and len(passed) >= SPARED else []
        for folder in passed if in_order else ():
            start, stop = bisect_left(keys, folder), bisect_left(keys, f"{folder}\U0010ffff")
            self._found[folder] = asked_at, entries[start:stop]


def _common(folders: "list[str]") -> str:
    """The longest folder that all of them are in, "" for the bucket."""
    if not folders:
        return ""
    first, last = folders[0], folders[-1]
    same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind("/", 0, same) + 1]


B = TypeVar("B", bound=Bucket)
SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE | re.ASCII)


class ObjectSource(ABC, Generic[B]):
    """Buckets as a source. A revision is a fingerprint of paths, sizes and versions.

    A file's ``version`` is its ETag (which is no digest), else its time of change.
    """

    words: ClassVar[StoreTerms]

    def __init__(self, settings: Settings) -> None:
        """Opens no connection and looks for no credentials yet."""
        self._settings = settings
        self._buckets: dict[str, B] = {}
        self._batches: Mapping[str, BatchListing] = {}
        self._reported: dict[tuple[str, str, str], Mapping[str, str]] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def _open(self, name: str) -> B:
        """The bucket, with the credentials that are for it."""

    @abstractmethod
    def _stream(
        self, bucket: B, revision: Revision, file: RemoteFile, start: int, end: int, *, rest: bool
    ) -> Iterator[bytes]:
        """One request's bytes, checked to be of the version and range that were asked for.

        With ``rest`` they are the rest of the file, for which a server that knows no ranges may send all of it.
        """

    def expect(self, refs: Iterable[AdapterRef]) -> None:
        """These will most likely be resolved: what is side by side can be listed together. Asks for nothing yet."""
        folders = by_key((ref.location.partition("/")[0], _prefix(ref)) for ref in refs)
        self._batches = {bucket: BatchListing(prefixes) for bucket, prefixes in folders.items()}

    def resolve(self, ref: AdapterRef) -> Revision:
        """The objects below the prefix that ``ref`` names, at this moment: one request for up to 1000 of them.

        Where it was expected with others next to it, that request was for all of them, and a moment ago.

        Raises:
            NotFound: there is no such bucket, or nothing below the prefix.
            UsageError: it is an object.
            AccessDenied: there are no credentials, or they may not list it.
            Refused: there are over 10 000 objects, or a key that could not be a file.
            Unreachable: network or server, after the retries.
        """
        bucket, prefix = self._bucket(ref), _prefix(ref)
        found = self._list(bucket, prefix, str(ref))
        files = tuple(sorted(_files(found, prefix, str(ref)), key=lambda file: file.path))
        if not files:
            raise self._empty_listing(ref, bucket)
        lines = "".join(f"{file.size} {file.version} {file.path}\n" for file in files)
        return Revision(ref, hashlib.sha256(lines.encode()).hexdigest(), files)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the object as it was listed, in chunks of at most 1 MiB.

        A stream that breaks is resumed here, ``retries`` times without progress.

        Raises:
            Corrupt: the object was overwritten or removed, or the server sends another range than was asked for.
            AccessDenied: the credentials may list it and not read it.
            NoRanges: before a byte, when the server sends whole files only, and ``stop`` is not None.
            Unreachable: network or server, after the retries.
        """
        bucket, what = self._bucket(revision.ref), f"{revision.ref}: {file.path}"
        end = file.size if stop is None or file.size is None else min(stop, file.size)
        if end is None:
            return

        def read(position: int) -> Iterator[bytes]:
            try:
                yield from self._stream(bucket, revision, file, position, end, rest=stop is None)
            except Transient as broken:
                raise bucket.with_retry_after(broken) from broken
            except StoreError as error:
                raise self._read_error(error, bucket, what) from error

        yield from Retries(self._settings.retries).stream(what, bucket.server, start, end, read)

    def reported_digests(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 that the origin reports for a file: the header's name → hexadecimal digits."""
        return self._reported.get(version_key(revision, file), {})

    def _bucket(self, ref: AdapterRef) -> B:
        name = ref.location.partition("/")[0]
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = self._open(name)
            return self._buckets[name]

    def _list(self, bucket: B, prefix: str, what: str) -> list[Entry]:
        """All objects below ``prefix``: listed with other folders, or alone; with retries."""
        batch = self._batches.get(bucket.name)

        def attempt() -> list[Entry]:
            try:
                found = batch.take(bucket, prefix) if batch is not None else None
                return listed(bucket, prefix, what) if found is None else found
            except Transient as failure:
                raise bucket.with_retry_after(failure) from failure
            except StoreError as error:
                if error.code == "InvalidPath":
                    hint = "nothing was read; the owner of the bucket must fix it"
                    raise Refused(f"{what}: a key below it is not a valid file path", hint=hint) from error
                raise translate_error(error, bucket, what, self.words) from error

        return Retries(self._settings.retries).call(what, attempt)

    def _empty_listing(self, ref: AdapterRef, bucket: B) -> LoraCliError:
        """Why a listing was empty: the one other request that may have it is made here."""
        key = ref.location.partition("/")[2]
        if not key:
            return NotFound(
                f"{ref}: the {self.words.bucket} is empty", hint=f"inspect it with the tools of {bucket.server}"
            )
        if not bucket.has(key):
            hint = "check the spelling: write the full folder, up to the / before its files"
            if "@" in key:
                hint += ", and object stores have no revisions: the @ and the text after it are part of the name"
            return NotFound(f"{ref}: there is nothing below {key}/ in the {self.words.bucket} {bucket.name}", hint=hint)
        folder = ref.location.rpartition("/")[0]
        return UsageError(f"{ref} is an object, not a folder", hint=f"write {ref.scheme}://{folder}")

    def _record_digest(self, revision: Revision, file: RemoteFile, sha256: str) -> None:
        """Records the sha256 in an object's metadata."""
        if SHA256.fullmatch(sha256):
            self._reported[version_key(revision, file)] = {"metadata sha256": sha256.lower()}

    def _read_error(self, error: StoreError, bucket: B, what: str) -> LoraCliError:
        """Why a listed object could not be read."""
        if error.status == 412:
            return Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)
        if error.status == 404 and error.code not in NO_BUCKET:
            return Changed(f"{what} was removed after it was listed", hint=AGAIN)
        if error.status == 416:
            return Changed(f"{what}: it is shorter than its listed size", hint=AGAIN)
        return translate_error(error, bucket, what, self.words)


def _prefix(ref: AdapterRef) -> str:
    """The key of the folder, ending in a slash, so that ``adapter_1`` is not ``adapter_10``; "" for a bucket."""
    key = ref.location.partition("/")[2]
    return f"{key}/" if key else ""


def object_key(ref: AdapterRef, file: RemoteFile) -> str:
    """The key of a file in its bucket."""
    return f"{_prefix(ref)}{file.path}"


def version_key(revision: Revision, file: RemoteFile) -> tuple[str, str, str]:
    """The key of one version of one object."""
    return revision.ref.location, file.path, file.version


def _files(found: list[Entry], prefix: str, what: str) -> Iterator[RemoteFile]:
    """The objects as files below the prefix. Empty objects that mark a folder are skipped: many end in a slash."""
    folders = {prefix.rstrip("/")}
    for entry in found:
        parts = entry.key.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    kept = [entry for entry in found if entry.size or entry.key.rstrip("/") not in folders]
    check_listed((entry.key.removeprefix(prefix) for entry in kept), what)
    for entry in kept:
        yield RemoteFile(entry.key.removeprefix(prefix), entry.size, version=entry.version)
