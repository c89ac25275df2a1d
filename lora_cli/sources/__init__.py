"""Sources of adapters. A source only reads: it never writes, caches or parses."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from lora_cli.errors import Corrupt, Refused, Unreachable
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings
from lora_cli.sources.retries import Retries

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule


T = TypeVar("T")
MOST_ENTRIES = 10_000


class NoRanges(Unreachable):
    """The origin sends the whole file where a range far from its beginning was asked for: read it as one stream."""


def at_most_10_000(entries: Iterable[T], what: str) -> Iterator[T]:
    """The entries of a listing; raises ``Refused``, which begins with ``what``, where there are over 10,000."""
    for count, entry in enumerate(entries):
        if count == MOST_ENTRIES:
            raise Refused(f"{what}: its listing has over {MOST_ENTRIES} entries", hint="use the folder of one adapter")
        yield entry


class Source:
    """Two methods, the same for every origin. Third-party errors leave as ``lora_cli.errors``.

    A source implements ``_resolve`` and ``_stream``: one attempt of each. What retries and resumes is here. Paths are
    given as they are listed; they are checked before anything is written.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no credentials yet; ``rule`` is what the operator's settings say of it."""
        self._settings, self._rule = settings, rule
        self._retries = Retries(settings.retries)

    def resolve(self, ref: AdapterRef) -> Revision:
        """The current revision of ``ref``: an immutable id and its files.

        Raises:
            NotFound: there is no such path, repository or revision.
            AccessDenied: it is private or gated, or the token is bad.
            Refused: there are over 10,000 files.
            Unreachable: network or server, after the retries.
        """
        return self._retries.call(str(ref), lambda: self._resolve(ref))

    def _resolve(self, ref: AdapterRef) -> Revision:
        """One attempt of ``resolve``; raises as that, and ``Transient`` for what may be gone at the next one."""
        raise NotImplementedError

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (None: to the end) of exactly that version, in chunks of at most 1 MiB.

        A stream that breaks is resumed: what comes is whole and in order, as far as it comes.

        Raises:
            Corrupt: the file is not the version that was resolved any more.
            NoRanges: before a byte, when this origin sends whole files only, and ``stop`` is not None.
            Unreachable: nothing more comes, after the retries.
        """
        what = f"{revision.ref}: {file.path}"
        if file.defect:
            raise Corrupt(f"{what} {file.defect}")
        if revision.ref.scheme != "file" and re.search("(^|/)\\.\\.(/|$)|[\ud800-\udfff]", file.path):
            raise Refused(f"{what}: its path would leave the folder, or is no text", hint="do not trust this source")
        if stop is not None and file.size is not None:
            stop = min(stop, file.size)
        end = file.size if stop is None else stop
        yield from self._retries.stream(what, start, end, lambda at: self._stream(revision, file, at, stop))

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """One attempt of ``read``; raises as that, and ``Transient`` where it breaks. A range is never empty."""
        raise NotImplementedError

    def local_copy(self, revision: Revision, file: RemoteFile) -> AbstractContextManager[int | None]:
        """A descriptor of the file where it is on this machine already, None where it is not.

        Unless it is the file itself, it is named by a digest, and the caller hashes it.

        Raises:
            Corrupt: the file is not the version that was resolved any more.
            MachineError: this user may not read it.
        """
        return nullcontext()

    def reported_digests(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 that the origin reports, once the file was read: where it is reported → hexadecimal digits."""
        return {}

    def pin(self, ref: AdapterRef) -> AdapterRef:
        """``ref`` at its revision of this moment, where that takes one small request and a listing may take a download.

        Any other source gives it back as it is. Raises as ``resolve``. Who may ask that may read its files.
        """
        return ref
