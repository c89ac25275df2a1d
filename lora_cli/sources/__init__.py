"""Sources of adapters. A source only reads: it never writes, caches or parses."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Unreachable


class NoRanges(Unreachable):
    """The origin sends the whole file where a range far from its beginning was asked for: read it as one stream."""


class Source(Protocol):
    """Two methods, the same for every origin. Third-party errors leave as ``lora_cli.errors``."""

    def resolve(self, ref: AdapterRef) -> Revision:
        """The current revision of ``ref``: an immutable id and its files.

        Raises:
            NotFound: there is no such path, repository or revision.
            AccessDenied: it is private or gated, or the token is bad.
            Unreachable: network or server, after the retries.
        """
        ...

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (None: to the end) of exactly that version, in chunks of at most 1 MiB.

        A source resumes a stream that breaks itself: what comes is whole and in order, as far as it comes.

        Raises:
            Corrupt: the file is not the version that was resolved any more.
            NoRanges: before a byte, when this origin sends whole files only, and ``stop`` is not None.
            Unreachable: nothing more comes, after the retries.
        """
        ...


@runtime_checkable
class LocalFileSource(Source, Protocol):
    """A source of local files, which can be opened, and so cloned instead of copied."""

    def open_file(self, revision: Revision, file: RemoteFile) -> AbstractContextManager[int]:
        """A descriptor to read that version from; it is compared with what was listed on the way in and out.

        Raises:
            Corrupt: the file is not the version that was resolved any more.
            MachineError: this user may not read it.
        """
        ...


@runtime_checkable
class ClientCacheSource(Source, Protocol):
    """A source whose files another tool may have cached on this machine, named by their digests."""

    def cached_file(self, revision: Revision, file: RemoteFile) -> AbstractContextManager[int | None]:
        """A descriptor of the cached file, whose bytes the caller must hash; None if it is not cached."""
        ...


@runtime_checkable
class DigestSource(Source, Protocol):
    """A source that learns the sha256 of a file only while it reads it."""

    def reported_digests(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 that the origin reports, once the file was read: where it is reported → hexadecimal digits."""
        ...


@runtime_checkable
class PinSource(Source, Protocol):
    """A source that learns what a reference means now with one small request, where a listing may take a download."""

    def pin(self, ref: AdapterRef) -> AdapterRef:
        """The reference at its revision of this moment; raises as ``resolve``. Who may ask that may read its files."""
        ...
