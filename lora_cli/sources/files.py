"""The names and bytes of an adapter or a base, wherever they are."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lora_cli.errors import Corrupt, FormatError
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import Blob, RemoteFile, Revision, Snapshot
from lora_cli.sources import Source
from lora_cli.sources.local import LocalSource


@dataclass(frozen=True)
class Files:
    """The names and bytes of a local folder, a remote revision or a snapshot of the cache.

    Files that the cached ``snapshot`` has are read from there, all others from ``source``.
    """

    source: Source
    revision: Revision
    snapshot: Snapshot | None = None

    @property
    def ref(self) -> AdapterRef:
        """The reference of the revision."""
        return self.revision.ref

    def __iter__(self) -> Iterator[RemoteFile]:
        return iter(self.revision.files)

    def file(self, path: str) -> RemoteFile | None:
        """The file at ``path``, or None."""
        return self.revision.file(path)

    @property
    def directory(self) -> Path | None:
        """The folder on this disk that has them; None of what is only at its origin."""
        if self.snapshot is not None:
            return self.snapshot.directory
        return Path(self.ref.location) if self.ref.scheme == "file" else None

    @property
    def on_disk(self) -> bool:
        """Whether the bytes of an adapter are on this disk: in a local folder, or in the cache."""
        return self.directory is not None

    def read(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (None: to the end) of ``file``; raises as ``Source.read``."""
        if self.snapshot is None or file.path not in self.snapshot.files:
            return self.source.read(self.revision, file, start, stop)
        if (cached := self._folder.file(file.path)) is None:
            raise Corrupt(f"{self.snapshot.directory / file.path} was removed while it was read", hint="try again")
        return self._folder.read(cached, start, stop)

    def blob(self, file: RemoteFile) -> Blob | None:
        """Digest and size of ``file``, as cached, listed or read from this disk; None if they are not known."""
        if self.snapshot is not None and file.path in self.snapshot.files:
            return self.snapshot.files[file.path]
        if file.sha256 is not None and file.size is not None:
            return Blob(file.sha256, file.size)
        return Blob(self.sha256(file), file.size) if self.on_disk and file.size is not None else None

    def sha256(self, file: RemoteFile, stop: int | None = None) -> str:
        """The sha256 of the bytes that ``file`` has now, up to ``stop`` (None: all)."""
        hasher = hashlib.sha256()
        for chunk in self.read(file, 0, stop):
            hasher.update(chunk)
        return hasher.hexdigest()

    @cached_property
    def _folder(self) -> "Files":
        """The folder of the snapshot, as it is when it is first read."""
        assert self.snapshot is not None
        return files_at(self.snapshot.directory)


def files_at(directory: Path) -> Files:
    """The files of a folder on this disk, such as a snapshot: others may link to them while they are read.

    Raises:
        LoraCliError: as ``LocalSource.resolve``.
    """
    source = LocalSource(linked=True)
    return Files(source, source.resolve(AdapterRef("file", str(directory))))


def files_of(snapshot: Snapshot, ref: AdapterRef, revision: str = "") -> Files:
    """The files of a cached snapshot, as those of ``ref`` at its ``revision``: nothing is asked of an origin."""
    listed = (RemoteFile(path, blob.size, blob.sha256) for path, blob in sorted(snapshot.files.items()))
    return Files(LocalSource(), Revision(ref, revision, tuple(listed)), snapshot)


def read_range(files: Files, file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop``, fewer if the file is shorter."""
    read = bytearray()
    for chunk in files.read(file, start, stop) if start < stop else ():
        if not read and len(chunk) == stop - start:
            return bytes(chunk)  # no copy if it is bytes already
        read += chunk
    return bytes(read)


def read_beginning(files: Files, file: RemoteFile, most: int) -> bytes:
    """The first ``most`` bytes, fewer if the file is shorter.

    Raises:
        FormatError: the file cannot be read as plain bytes (``defect``).
        LoraCliError: what the source raises.
    """
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    return read_range(files, file, 0, most if file.size is None else min(most, file.size))
