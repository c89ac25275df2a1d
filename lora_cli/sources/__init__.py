"""Where bytes come from. A source reads: it never writes, caches or parses."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Unreachable


class NoRanges(Unreachable):
    """The origin sends the whole file where a range far from its beginning was asked for: read it as one stream."""


class Source(Protocol):
    """Two methods, the same for every origin. Third-party errors leave as ``lora_cli.errors``."""

    def resolve(self, ref: AdapterRef) -> Revision:
        """What ``ref`` means now: an immutable id and its files.

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
class NearSource(Source, Protocol):
    """A source whose files are this machine's own: they can be opened, and so shared instead of read."""

    def opened(self, revision: Revision, file: RemoteFile, *, linked: bool = False) -> AbstractContextManager[int]:
        """A descriptor to read that version from; it is compared with what was listed on the way in and out.

        ``linked`` lets it have got or lost a hard link since, which is no change of its bytes.

        Raises:
            Corrupt: the file is not the version that was resolved any more.
            MachineError: this user may not read it.
        """
        ...


@runtime_checkable
class HoldingSource(Source, Protocol):
    """A source of which another tool may hold files on this machine, under their digests."""

    def held(self, revision: Revision, file: RemoteFile) -> AbstractContextManager[int | None]:
        """A descriptor of a plain file that is called ``file``, to be hashed before it is believed; None for none."""
        ...


@runtime_checkable
class TellingSource(Source, Protocol):
    """A source that learns a file's sha256 only while it reads it."""

    def told(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """What the origin says that the sha256 is, once the file was read: where it says so → hexadecimal digits."""
        ...


@runtime_checkable
class HashingSource(Source, Protocol):
    """A source whose files have a Xet hash, which it can compute."""

    def xet_hash(self, path: Path, what: str) -> str:
        """The Xet hash of a file on this disk; ``what`` begins the message of an error."""
        ...


@runtime_checkable
class ExpectingSource(Source, Protocol):
    """A source that can ask for many folders at once, when it knows which."""

    def expect(self, refs: Iterable[AdapterRef]) -> None:
        """These will most likely be resolved. Nothing is asked for yet."""
        ...


def is_near(source: Source, revision: Revision) -> bool:
    """Whether the bytes at ``revision`` are on this disk: a folder's, or what the cache has of a remote one."""
    return revision.ref.scheme == "file" or bool(getattr(source, "holds", lambda _: False)(revision))
