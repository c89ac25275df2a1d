"""Adapters in folders of this machine, network file systems included. Read in place; a change is noticed."""

import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
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


def stat_and_real_path(path: Path) -> tuple[os.stat_result, Path]:
    """The status of ``path`` and its real path, by one descriptor: links that are changed meanwhile have no effect.

    Raises:
        OSError: as it comes; also where this machine does not say where a descriptor leads.
    """
    # O_PATH opens nothing: a device or FIFO does not notice.
    descriptor = os.open(path, getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_CLOEXEC)
    try:
        return os.fstat(descriptor), _path_of(descriptor)
    finally:
        os.close(descriptor)


def _path_of(descriptor: int) -> Path:
    if sys.platform == "darwin":
        return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def link_targets(real: Path) -> tuple[Path, ...]:
    """Folders that links may lead to: this one, and from ``<repository>/snapshots/<commit>`` the Hub cache's blobs."""
    snapshots = next((parent for parent in (real, *real.parents) if parent.parent.name == "snapshots"), None)
    if snapshots is None:
        return (real,)
    repository = snapshots.parent.parent
    return real, repository / "blobs", repository.parent / "blobs"


def is_below(place: Path, tops: Iterable[Path]) -> bool:
    """Whether ``place`` is inside one of these folders, and not one of them itself."""
    return any(place != top and place.is_relative_to(top) for top in tops)


def link_target(path: Path, allowed: tuple[Path, ...]) -> tuple[str, os.stat_result | None]:
    """Why a link is not followed, or what it leads to."""
    target = path.readlink()
    try:
        real = path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return f"is a dangling link to {target}", None
    except (OSError, RuntimeError):
        return f"is a link to {target} that does not resolve", None
    if not any(real.is_relative_to(home) for home in allowed):
        return f"is a link to {target}, outside its folder", None
    return "", real.stat()


CHUNK = 1 << 20
STALE_TRIES = 2
STALE_PAUSE_S = 0.2
NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
AWAY = frozenset(
    {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN}
)
"""The errors of a mount whose server is unreachable, or has forgotten the file."""

# A file that was written in this clock tick could be written again without its times telling.
TICK_S = 0.02
# A folder of such a name stands where a file is expected.
FILE_SUFFIXES = (".json", ".safetensors", ".bin", ".pt")


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
        for tries in count(1):
            try:
                found = _files(root, _allowed(root, self._roots), pinned=bool(self._roots))
                files = tuple(sorted(found, key=lambda file: file.path))
                break
            except OSError as error:
                if not _should_retry(error, tries):
                    raise _translated(error, root) from error
        lines = "".join(f"{file.version} {file.defect} {file.path}\n" for file in files)
        return Revision(ref, sha256(lines.encode(errors="surrogateescape")).hexdigest(), files)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the file as it was when it was listed, in chunks of at most 1 MiB.

        Raises:
            Corrupt: it has changed, or is gone.
            MachineError: this user may not read it.
            Unreachable: it is on a file server that does not answer.
        """
        path = Path(revision.ref.location, file.path)
        for tries in count(1):
            with _open(path, file) as descriptor:
                try:
                    for chunk in _chunks(descriptor, path, file, start, stop, linked=self._linked):
                        start += len(chunk)
                        yield chunk
                except OSError as error:
                    if not _should_retry(error, tries):
                        raise _translated(error, path, listed=True) from error
                else:
                    return

    @contextmanager
    def open_file(self, revision: Revision, file: RemoteFile) -> Iterator[int]:
        """A descriptor to read the file from; it is compared with what was listed on the way in and out.

        Raises:
            Corrupt: it has changed, or is gone.
            MachineError: this user may not read it.
            Unreachable: it is on a file server that does not answer.
        """
        path = Path(revision.ref.location, file.path)
        with _open(path, file) as descriptor:
            _check_unchanged(descriptor, path, file, linked=self._linked)
            yield descriptor
            _check_unchanged(descriptor, path, file, linked=self._linked)


@contextmanager
def _open(path: Path, file: RemoteFile) -> Iterator[int]:
    if file.defect:
        raise Corrupt(f"{path} {file.defect}")
    for tries in count(1):
        try:
            # Without O_NONBLOCK opening a FIFO would block.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            break
        except OSError as error:
            if not _should_retry(error, tries):
                raise _translated(error, path, listed=True) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _chunks(
    descriptor: int, path: Path, file: RemoteFile, start: int, stop: int | None, *, linked: bool
) -> Iterator[bytes]:
    """The range, with the fingerprint compared before the first byte and after the last one."""
    size = _check_unchanged(descriptor, path, file, linked=linked)
    end = size if stop is None else min(stop, size)
    while start < end:
        chunk = os.pread(descriptor, min(CHUNK, end - start), start)
        if not chunk:
            break
        start += len(chunk)
        if start >= end:
            _check_unchanged(descriptor, path, file, linked=linked)
        yield chunk
    _check_unchanged(descriptor, path, file, linked=linked)


def _check_unchanged(descriptor: int, path: Path, file: RemoteFile, *, linked: bool) -> int:
    try:
        status = os.fstat(descriptor)
    except OSError as error:
        raise _translated(error, path, listed=True) from error
    found, listed = _fingerprint(status), file.version
    if linked:
        found, listed = (fingerprint.rpartition(":")[0] for fingerprint in (found, listed))
    if not stat.S_ISREG(status.st_mode) or found != listed:
        raise Corrupt(f"{path} changed while it was read", hint="try again when it is no longer being written")
    return status.st_size


def _allowed(root: Path, roots: tuple[Path, ...]) -> tuple[Path, ...]:
    """Folders that links in the folder ``root`` may lead to; with ``roots`` only folders below these."""
    status, real = stat_and_real_path(root) if roots else (root.stat(), root.resolve())
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{root} is not a folder", hint="use the folder that contains adapter_config.json")
    if not roots:
        return link_targets(real)
    tops = [Path(os.path.realpath(top)) for top in roots]
    if not is_below(real, tops):
        raise _outside(root)
    return tuple(home for home in link_targets(real) if is_below(home, tops))


def _files(root: Path, allowed: tuple[Path, ...], *, pinned: bool) -> Iterator[RemoteFile]:
    """Every file below ``root``.

    Links lead into the ``allowed`` folders only; with ``pinned`` the kernel is asked where each file is.
    """
    for path, entry in list(_entries(root)):  # all are counted before the first is looked at, which may take a tick
        file = _file(root, path, entry, allowed, pinned=pinned)
        if file is not None:
            yield file


def _entries(root: Path) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    """The path of everything below ``root`` that may be a file, folders in turn, without recursion and with a bound."""
    seen = 0
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                seen += 1
                if seen > MOST_ENTRIES:
                    raise Refused(
                        f"{root} contains over {MOST_ENTRIES} entries",
                        hint="use the folder of one adapter, not of many",
                    )
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith("."):
                        folders.append(path)
                    if not entry.name.endswith(FILE_SUFFIXES):
                        continue
                yield path, entry


def _file(
    root: Path, path: str, entry: "os.DirEntry[str]", allowed: tuple[Path, ...], *, pinned: bool
) -> RemoteFile | None:
    """The entry as a file; None for what vanished meanwhile and for a link to a folder that could not be a file."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        defect, target = link_target(root / path, allowed)
        if target is None:
            return RemoteFile(path, None, defect=defect)
        if stat.S_ISDIR(target.st_mode) and not entry.name.endswith(FILE_SUFFIXES):
            return None
        status = target
    if not stat.S_ISREG(status.st_mode):
        return RemoteFile(path, None, defect=f"is {_kind(status.st_mode)}, not a regular file")
    if (fresh := time.time_ns() - status.st_ctime_ns) < TICK_S * 1e9:
        time.sleep(min(TICK_S, max(0.0, TICK_S - fresh / 1e9)))
        status = (root / path).stat()
    if pinned:
        status, real = stat_and_real_path(root / path)
        if not is_below(real, allowed):
            raise _outside(root / path)
    return RemoteFile(path, status.st_size, version=_fingerprint(status))


def _outside(path: Path) -> Refused:
    return Refused(f"{path} is a link, or below one, to a folder that may not be read", hint="--root DIRECTORY")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _fingerprint(status: os.stat_result) -> str:
    """Changes with every write and every replacement. The device does not count: it differs from mount to mount."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def is_path(text: str, base_dir: Path | None = None) -> bool:
    """Whether ``text`` is a path, and not ORG/NAME of the Hub, seen from ``base_dir`` (None: the working directory).

    It is one if it exists (a dangling link does, too), and if the folder exists that it would be in: a folder that was
    removed or misspelt is not looked for on the Hub, where somebody else may have a repository of that name.
    """
    if "\0" in text:
        return False
    path = (base_dir or Path()) / text
    in_folder = text.count("/") == 1 and "@" not in text and os.path.isdir(path.parent)  # noqa: PTH112 - never raises
    return os.path.lexists(path) or in_folder


def _missing(path: Path) -> NotFound:
    try:
        linked = path.is_symlink()
    except OSError as error:
        return NotFound(f"{path}: {error.strerror}", hint="check the path")
    if linked:
        return NotFound(f"{path} is a dangling link", hint="check what it points to")
    beside = sorted(one.name for one in path.parent.glob("checkpoint-*")) if path.name.startswith("checkpoint-") else []
    hint = "check the spelling; a repository of the Hub is hf://ORG/NAME, and a folder in one hf://ORG/NAME/FOLDER"
    hint = f"there are {names(beside)}" if beside else hint
    return NotFound(f"there is no folder {path}", hint=hint)


def _should_retry(error: OSError, tries: int) -> bool:
    """Waits before another try, if that may help: a server that exports again, or a file that was replaced."""
    if error.errno != errno.ESTALE or tries > STALE_TRIES:
        return False
    time.sleep(STALE_PAUSE_S * tries)
    return True


def _translated(error: OSError, path: Path, *, listed: bool = False) -> LoraCliError:
    if isinstance(error, PermissionError):
        return MachineError(f"{path}: no permission to read it", hint=f"this process runs as uid {os.geteuid()}")
    if error.errno in NOWHERE:
        return Corrupt(f"{path} was removed while it was read", hint="try again") if listed else _missing(path)
    if error.errno in AWAY:
        hint = "check the mount, and try again: files that were already read are valid"
        return Unreachable(f"{path}: its file server does not respond correctly: {error.strerror}", hint=hint)
    return MachineError(f"{path}: {error.strerror}", hint="check the disk or the mount; dmesg may show details")
