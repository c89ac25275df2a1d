"""The files at an origin (``Revision``) and on this disk (``Snapshot``)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.refs.reference import WITH_REVISIONS, AdapterRef


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at its origin.

    ``path`` is POSIX and relative to the adapter's root (a subfolder is already stripped). ``size`` (bytes),
    ``sha256`` and ``git_sha1`` (the git blob id) are None if the origin does not know them. ``locator`` is what the
    source itself needs to read the file. ``version`` is what its origin calls this version of it (an ETag, a time, the
    state of a local file), "" where it says a digest or nothing. A file with a ``defect`` ("is a FIFO", "dangling link
    to …") can never be read as plain bytes: it is reported, never opened.
    """

    path: str
    size: int | None
    sha256: str | None = None
    git_sha1: str | None = None
    locator: str = ""
    defect: str = ""
    version: str = ""

    @property
    def identity(self) -> str:
        """What the origin says of this version of the file: a digest, else its version with the size; "" for none."""
        if self.sha256 or self.git_sha1:
            return f"sha256:{self.sha256}" if self.sha256 else f"git:{self.git_sha1}"
        return f"version:{self.size}:{self.version}" if self.version else ""


@dataclass(frozen=True, slots=True)
class Revision:
    """The meaning of a reference at one moment: an immutable id and the files under it.

    ``id`` is a commit for the Hub; for a local folder it is a fingerprint of names, sizes and modification times. Not
    ``whole``: other files may exist.
    """

    ref: AdapterRef
    id: str
    files: tuple[RemoteFile, ...]
    whole: bool = True

    @classmethod
    def of_listing(cls, ref: AdapterRef, files: Iterable[RemoteFile]) -> "Revision":
        """The revision of a listing that has no id: a fingerprint of its paths, sizes and versions.

        Where a file has no version, the id begins with ``none-`` and is never the same again.
        """
        import hashlib
        import secrets

        listed = tuple(sorted(files, key=lambda file: file.path))
        if not all(file.version or file.sha256 or file.defect for file in listed):
            return cls(ref, f"none-{secrets.token_hex(16)}", listed)
        lines = "".join(f"{file.size} {file.version or file.sha256 or file.defect} {file.path}\n" for file in listed)
        return cls(ref, hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest(), listed)

    @property
    def pinned(self) -> AdapterRef:
        """Its reference at its id, where references can name one."""
        return replace(self.ref, revision=self.id) if self.ref.scheme in WITH_REVISIONS else self.ref

    def file(self, path: str) -> RemoteFile | None:
        """The file at ``path``, or None."""
        return next((file for file in self.files if file.path == path), None)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes, named by what they are: ``sha256`` in lower-case hex, ``size`` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A revision, complete, in a directory on this disk that an engine can be given."""

    digest: str
    directory: Path
    files: Mapping[str, Blob]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(blob.size for blob in self.files.values())


def snapshot_digest(files: Iterable[tuple[str, Blob]]) -> str:
    r"""The name of a set of files: sha256 of the sorted lines ``"<sha256>  <size>  <path>\n"``."""
    import hashlib

    lines = sorted(f"{blob.sha256}  {blob.size}  {path}\n" for path, blob in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
