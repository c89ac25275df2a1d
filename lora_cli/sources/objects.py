"""Adapters in object stores: a prefix is a folder, and every range is pinned to the version that was listed."""

import hashlib
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Generic, TypeVar

from lora_cli.core.grouping import by_key
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Changed, LoraCliError, NotFound, Refused, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.buckets import Bucket, Entry
from lora_cli.sources.http import AGAIN
from lora_cli.sources.listed import check_listed
from lora_cli.sources.object_errors import Answered
from lora_cli.sources.object_listing import Neighbours, listed
from lora_cli.sources.object_refusals import NO_BUCKET, Words, explained
from lora_cli.sources.retries import Retries, Transient

B = TypeVar("B", bound=Bucket)
SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE | re.ASCII)


class ObjectSource(ABC, Generic[B]):
    """Buckets as a source. A revision is a fingerprint of paths, sizes and versions.

    A file's ``version`` is its ETag (which is no digest), else its time of change.
    """

    words: ClassVar[Words]

    def __init__(self, settings: Settings) -> None:
        """Opens no connection and looks for no credentials yet."""
        self._settings = settings
        self._buckets: dict[str, B] = {}
        self._neighbours: Mapping[str, Neighbours] = {}
        self._told: dict[tuple[str, str, str], Mapping[str, str]] = {}
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
        """These will most likely be resolved: what lies side by side can be listed together. Asks for nothing yet."""
        folders = by_key((ref.location.partition("/")[0], _prefix(ref)) for ref in refs)
        self._neighbours = {bucket: Neighbours(prefixes) for bucket, prefixes in folders.items()}

    def resolve(self, ref: AdapterRef) -> Revision:
        """The objects below the prefix that ``ref`` names, at this moment: one request for up to 1000 of them.

        Where it was expected with others beside it, that request was for all of them, and a moment ago.

        Raises:
            NotFound: there is no such bucket, or nothing below the prefix.
            UsageError: it is an object.
            AccessDenied: there are no credentials, or they may not list it.
            Refused: there are over 10 000 objects, or a key that could not be a file.
            Unreachable: network or server, after the retries.
        """
        bucket, prefix = self._bucket(ref), _prefix(ref)
        found = self._tried(bucket, prefix, str(ref))
        files = tuple(sorted(_files(found, prefix, str(ref)), key=lambda file: file.path))
        if not files:
            raise self._nothing(ref, bucket)
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
                raise bucket.wished(broken) from broken
            except Answered as answer:
                raise self._unread(answer, bucket, what) from answer

        yield from Retries(self._settings.retries).stream(what, bucket.server, start, end, read)

    def told(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """What the origin says of the file's sha256 beside the listing: the header's name → hexadecimal digits."""
        return self._told.get(version_key(revision, file), {})

    def _bucket(self, ref: AdapterRef) -> B:
        name = ref.location.partition("/")[0]
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = self._open(name)
            return self._buckets[name]

    def _tried(self, bucket: B, prefix: str, what: str) -> list[Entry]:
        """All objects below ``prefix``, asked for again after what may pass."""

        def ask() -> list[Entry]:
            try:
                return self._listed(bucket, prefix, what)
            except Transient as failure:
                raise bucket.wished(failure) from failure
            except Answered as answer:
                if answer.code == "InvalidPath":
                    hint = "nothing of it was read; whoever keeps the bucket must mend that"
                    raise Refused(f"{what}: a key below it is no path of a file", hint=hint) from answer
                raise explained(answer, bucket.asker, what, self.words) from answer

        return Retries(self._settings.retries).call(what, ask)

    def _listed(self, bucket: B, prefix: str, what: str) -> list[Entry]:
        """All objects below ``prefix``: listed with those beside it, or asked for by itself."""
        neighbours = self._neighbours.get(bucket.asker.bucket)
        found = neighbours.take(bucket, prefix) if neighbours is not None else None
        return listed(bucket, prefix, what) if found is None else found

    def _nothing(self, ref: AdapterRef, bucket: B) -> LoraCliError:
        """Why a listing was empty: the one other request that may tell is made here."""
        key = ref.location.partition("/")[2]
        if not key:
            return NotFound(
                f"{ref}: the {self.words.bucket} is empty", hint=f"look at it with the tools of {bucket.server}"
            )
        if not bucket.has(key):
            hint = "check the spelling: a folder is named in full, up to the / before its files"
            if "@" in key:
                hint += ", and an object store has no revisions: what follows the @ is part of the name"
            return NotFound(
                f"{ref}: there is nothing below {key}/ in the {self.words.bucket} {bucket.asker.bucket}", hint=hint
            )
        folder = ref.location.rpartition("/")[0]
        return UsageError(f"{ref} is an object, not a folder", hint=f"write {ref.scheme}://{folder}")

    def _note(self, revision: Revision, file: RemoteFile, said: str) -> None:
        """Remembers what an object's own metadata says of its sha256."""
        if SHA256.fullmatch(said):
            self._told[version_key(revision, file)] = {"metadata sha256": said.lower()}

    def _unread(self, answer: Answered, bucket: B, what: str) -> LoraCliError:
        """Why a listed object could not be read."""
        if answer.status == 412:
            return Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)
        if answer.status == 404 and answer.code not in NO_BUCKET:
            return Changed(f"{what} is gone: it was listed a moment ago", hint=AGAIN)
        if answer.status == 416:
            return Changed(f"{what}: it is shorter than it was listed", hint=AGAIN)
        return explained(answer, bucket.asker, what, self.words)


def _prefix(ref: AdapterRef) -> str:
    """The key of the folder, ending in a slash, so that ``adapter_1`` is not ``adapter_10``; "" for a bucket."""
    key = ref.location.partition("/")[2]
    return f"{key}/" if key else ""


def object_key(ref: AdapterRef, file: RemoteFile) -> str:
    """The key of a file in its bucket."""
    return f"{_prefix(ref)}{file.path}"


def version_key(revision: Revision, file: RemoteFile) -> tuple[str, str, str]:
    """What tells one version of one object from any other."""
    return revision.ref.location, file.path, file.version


def _files(found: list[Entry], prefix: str, what: str) -> Iterator[RemoteFile]:
    """The objects as files below the prefix. Empty ones that stand for a folder are none: many end in a slash."""
    folders = {prefix.rstrip("/")}
    for entry in found:
        parts = entry.key.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    kept = [entry for entry in found if entry.size or entry.key.rstrip("/") not in folders]
    check_listed((entry.key.removeprefix(prefix) for entry in kept), what)
    for entry in kept:
        yield RemoteFile(entry.key.removeprefix(prefix), entry.size, version=entry.version)
