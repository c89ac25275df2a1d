"""Local folders, mounts of file servers among them: what changes while it is read is noticed, never delivered."""

import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.core.text import names
from lora_cli.errors import Corrupt, LoraCliError, MachineError, NotFound, Refused, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.listed_paths import MOST_ENTRIES

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

CHUNK = 1 << 20
TICK_S = 0.02
"""A file that was written in this clock tick could be written again without its times telling."""

FILE_SUFFIXES = (".json", ".safetensors", ".bin", ".pt")
"""A folder of such a name stands where a file is expected."""

_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
# Of a mount whose server is unreachable, or has forgotten the file.
_AWAY = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN}

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


class LocalSource:
    """A folder as a source. Its revision is a fingerprint of names, sizes, inodes and times of change.

    Folders that begin with a dot are left out. A link is followed inside the folder, and from a snapshot of the Hub's
    own cache to that cache's blobs; any other link, and whatever is no plain file, is listed with its ``defect``.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        rule: "SourceRule | None" = None,
        *,
        linked: bool = False,
        roots: tuple[Path, ...] = (),
    ) -> None:
        """Takes settings and rule as every source does; nothing of them concerns a folder.

        ``linked`` files may get and lose hard links while they are read, which is no change of their bytes. With
        ``roots`` the folder must be below one of them, and each file where it seems to be: both are opened, and the
        kernel says where they are, so that a link which is put in their place meanwhile leads nowhere.
        """
        self._linked, self._roots = linked, roots

    def resolve(self, ref: AdapterRef) -> Revision:
        """The files below the folder that ``ref`` names, at this moment.

        Raises:
            NotFound: there is no such path.
            UsageError: it is a file.
            Refused: there are over 10 000 entries; or it, or a file in it, is outside of the ``roots``.
            MachineError: this user may not look.
            Unreachable: it is on a file server that does not answer.
        """
        root = Path(ref.location)
        with _translating(root, listed=False):
            allowed = _allowed(root, self._roots)
            # All are counted before the first is looked at, which may take a tick.
            found = [_file(root, path, entry, allowed, bool(self._roots)) for path, entry in list(_entries(root))]
        files = tuple(sorted((file for file in found if file is not None), key=lambda file: file.path))
        lines = "".join(f"{file.version} {file.defect} {file.path}\n" for file in files)
        return Revision(ref, sha256(lines.encode(errors="surrogateescape")).hexdigest(), files)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the file as it was when it was listed, in chunks of at most 1 MiB.

        Raises:
            Corrupt: it has changed, or is gone.
            MachineError: this user may not read it.
            Unreachable: it is on a file server that does not answer.
        """
        path, size = Path(revision.ref.location, file.path), file.size or 0
        end = size if stop is None else min(stop, size)
        with self.open_file(revision, file) as descriptor:
            while start < end:
                with _translating(path):
                    chunk = os.pread(descriptor, min(CHUNK, end - start), start)
                start += len(chunk)
                if start >= end or not chunk:
                    self._check_unchanged(descriptor, path, file)
                yield chunk

    @contextmanager
    def open_file(self, revision: Revision, file: RemoteFile) -> Iterator[int]:
        """A descriptor to read the file from; it is compared with what was listed on the way in and out.

        Raises:
            Corrupt: it has changed, or is gone.
            MachineError: this user may not read it.
            Unreachable: it is on a file server that does not answer.
        """
        path = Path(revision.ref.location, file.path)
        if file.defect:
            raise Corrupt(f"{path} {file.defect}")
        with _translating(path):
            # Without O_NONBLOCK opening a FIFO would block.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._check_unchanged(descriptor, path, file)
            yield descriptor
            self._check_unchanged(descriptor, path, file)
        finally:
            os.close(descriptor)

    def _check_unchanged(self, descriptor: int, path: Path, file: RemoteFile) -> None:
        with _translating(path):
            status = os.fstat(descriptor)
        found, listed = _fingerprint(status), file.version
        if self._linked:
            found, listed = (fingerprint.rpartition(":")[0] for fingerprint in (found, listed))
        if not stat.S_ISREG(status.st_mode) or found != listed:
            raise Corrupt(f"{path} changed while it was read", hint="try again when it is no longer being written")


def is_below(place: Path, tops: Iterable[Path]) -> bool:
    """Whether ``place`` is inside one of these folders, and not one of them itself."""
    return any(place != top and place.is_relative_to(top) for top in tops)


def _allowed(root: Path, roots: tuple[Path, ...]) -> tuple[Path, ...]:
    """The folders that links in the folder ``root`` may lead to; with ``roots`` only those below one of them."""
    status, real = _opened(root) if roots else (root.stat(), root.resolve())
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{root} is not a folder", hint="use the folder that contains adapter_config.json")
    allowed = [real]
    # A snapshot of the Hub's cache, <repository>/snapshots/<commit>, has links to its blobs.
    if snapshot := next((parent for parent in (real, *real.parents) if parent.parent.name == "snapshots"), None):
        allowed += [snapshot.parents[1] / "blobs", snapshot.parents[2] / "blobs"]
    if not roots:
        return tuple(allowed)
    tops = [Path(os.path.realpath(top)) for top in roots]
    if not is_below(real, tops):
        raise _outside(root)
    return tuple(folder for folder in allowed if is_below(folder, tops))


def _opened(path: Path) -> tuple[os.stat_result, Path]:
    """The status of ``path`` and its real path, by one descriptor: links that are changed meanwhile have no effect."""
    # O_PATH opens nothing: a device or FIFO does not notice.
    descriptor = os.open(path, getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_CLOEXEC)
    try:
        if sys.platform == "darwin":
            real = Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
        else:
            real = Path(f"/proc/self/fd/{descriptor}").readlink()
        return os.fstat(descriptor), real
    finally:
        os.close(descriptor)


def _entries(root: Path) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    """Whatever may be a file below ``root``, with its path, folder after folder and with a bound."""
    seen, folders = 0, [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                seen += 1
                if seen > MOST_ENTRIES:
                    hint = "use the folder of one adapter, not of many"
                    raise Refused(f"{root} contains over {MOST_ENTRIES} entries", hint=hint)
                path, is_folder = f"{folder}{entry.name}", entry.is_dir(follow_symlinks=False)
                if is_folder and not entry.name.startswith("."):
                    folders.append(f"{path}/")
                if not is_folder or entry.name.endswith(FILE_SUFFIXES):
                    yield path, entry


def _file(
    root: Path, path: str, entry: "os.DirEntry[str]", allowed: tuple[Path, ...], pinned: bool
) -> RemoteFile | None:
    """The entry as a file; None for what vanished meanwhile and for a link to a folder that could not be a file.

    Links lead into the ``allowed`` folders only; where these are ``pinned`` the kernel is asked where each file is.
    """
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        defect, status = _behind_link(root / path, status, allowed)
        if defect:
            return RemoteFile(path, None, defect=defect)
        if stat.S_ISDIR(status.st_mode) and not entry.name.endswith(FILE_SUFFIXES):
            return None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        return RemoteFile(path, None, defect=f"is {kind}, not a regular file")
    if (age_s := (time.time_ns() - status.st_ctime_ns) / 1e9) < TICK_S:
        time.sleep(min(TICK_S, TICK_S - age_s))
        status = (root / path).stat()
    if pinned:
        status, real = _opened(root / path)
        if not is_below(real, allowed):
            raise _outside(root / path)
    return RemoteFile(path, status.st_size, version=_fingerprint(status))


def _behind_link(path: Path, status: os.stat_result, allowed: tuple[Path, ...]) -> tuple[str, os.stat_result]:
    """Why a link is not followed, "" if it is; and the status of what it leads to, else its own."""
    target = path.readlink()
    try:
        real = path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return f"is a dangling link to {target}", status
    except (OSError, RuntimeError):
        return f"is a link to {target} that does not resolve", status
    if not any(real.is_relative_to(folder) for folder in allowed):
        return f"is a link to {target}, outside its folder", status
    return "", real.stat()


def _fingerprint(status: os.stat_result) -> str:
    """Changes with every write and every replacement. The device does not count: it differs from mount to mount."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _outside(path: Path) -> Refused:
    return Refused(f"{path} is a link, or below one, to a folder that may not be read", hint="--root DIRECTORY")


@contextmanager
def _translating(path: Path, *, listed: bool = True) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translated(error, path, listed) from error


def _translated(error: OSError, path: Path, listed: bool) -> LoraCliError:
    if isinstance(error, PermissionError):
        return MachineError(f"{path}: no permission to read it", hint=f"this process runs as uid {os.geteuid()}")
    if error.errno in _AWAY:
        hint = "check the mount, and try again: files that were already read are valid"
        return Unreachable(f"{path}: its file server does not respond correctly: {error.strerror}", hint=hint)
    if error.errno not in _NOWHERE:
        return MachineError(f"{path}: {error.strerror}", hint="check the disk or the mount; dmesg may show details")
    if listed:
        return Corrupt(f"{path} was removed while it was read", hint="try again")
    if os.path.islink(path):  # noqa: PTH114 - never raises
        return NotFound(f"{path} is a dangling link", hint="check what it points to")
    beside = sorted(one.name for one in path.parent.glob("checkpoint-*")) if path.name.startswith("checkpoint-") else []
    hint = "check the spelling; a repository of the Hub is hf://ORG/NAME, and a folder in one hf://ORG/NAME/FOLDER"
    return NotFound(f"there is no folder {path}", hint=f"there are {names(beside)}" if beside else hint)
