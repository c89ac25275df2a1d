"""Local folders, mounts of file servers among them: what changes while it is read is noticed, never delivered."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.errors import Corrupt, MachineError, NotFound, Refused, Unreachable, UsageError
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings
from lora_cli.sources import Retries, Source, at_most_10_000

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

CHUNK = 1 << 20
TICK_S = 0.02
"""A file that was written in this clock tick could be written again without its times telling."""

_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
# Of a mount whose server is unreachable, or has forgotten the file.
_AWAY = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN}


class LocalSource(Source):
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
        """``linked`` files may get and lose hard links while they are read, which is no change of their bytes.

        With ``roots`` the folder must be below one of them, wherever links lead.
        """
        self._retries, self._linked, self._roots = Retries(0), linked, roots

    def _resolve(self, ref: AdapterRef) -> Revision:
        root = Path(ref.location)
        with _translating(root, listed=False):
            if not stat.S_ISDIR(root.stat().st_mode):
                manifest = f"for an adapter set, use -f {root}" if root.suffix in {".yaml", ".yml"} else ""
                hint = manifest or "use the folder that contains adapter_config.json"
                raise UsageError(f"{root} is not a folder", hint=hint)
            real = root.resolve()
            allowed = [real]
            # A snapshot of the Hub's cache, <repository>/snapshots/<commit>, has links to its blobs.
            if commit := next((parent for parent in (real, *real.parents) if parent.parent.name == "snapshots"), None):
                allowed += [commit.parents[1] / "blobs", commit.parents[2] / "blobs"]
            if self._roots:
                if not self._is_below_a_root(real):
                    reason = f"{root} is a link, or below one, to a folder that may not be read"
                    raise Refused(reason, hint="--root DIRECTORY")
                allowed = [folder for folder in allowed if self._is_below_a_root(folder)]
            paths = list(at_most_10_000(_paths(root), str(root)))
            return Revision.of_listing(ref, [file for path in paths if (file := self._file(root, path, allowed))])

    def _file(self, root: Path, path: str, allowed: list[Path]) -> RemoteFile | None:
        """The file at ``path``, whose links lead into ``allowed`` folders only; None for what vanished meanwhile."""
        try:
            status = (root / path).lstat()
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(status.st_mode):
            target = (root / path).readlink()
            try:
                real = Path(os.path.realpath(root / path, strict=True))
            except OSError:
                return RemoteFile(path, None, defect=f"is a dangling link to {target}")
            if not any(real.is_relative_to(folder) for folder in allowed):
                return RemoteFile(path, None, defect=f"is a link to {target}, outside its folder")
            status = real.stat()
        if not stat.S_ISREG(status.st_mode):
            return RemoteFile(path, None, defect="is not a regular file")
        changed_ns = status.st_mtime_ns if self._linked else status.st_ctime_ns
        if (age_s := (time.time_ns() - changed_ns) / 1e9) < TICK_S:
            time.sleep(min(TICK_S, TICK_S - age_s))
            status = (root / path).stat()
        return RemoteFile(path, status.st_size, version=_fingerprint(status))

    def _is_below_a_root(self, real: Path) -> bool:
        roots = [Path(os.path.realpath(root)) for root in self._roots]
        return any(real != root and real.is_relative_to(root) for root in roots)

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        path, end = Path(revision.ref.location, file.path), (file.size or 0) if stop is None else stop
        with self.local_copy(revision, file) as descriptor:
            while start < end:
                with _translating(path):
                    chunk = os.pread(descriptor, min(CHUNK, end - start), start)
                start += len(chunk)
                if start == end or not chunk:
                    self._check_unchanged(descriptor, path, file)
                yield chunk

    @contextmanager
    def local_copy(self, revision: Revision, file: RemoteFile) -> Iterator[int]:
        """A descriptor of the file itself, which is compared with what was listed on the way in and out."""
        path = Path(revision.ref.location, file.path)
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
        if found != listed:
            raise Corrupt(f"{path} changed while it was read", hint="try again when it is no longer being written")


def _paths(root: Path) -> Iterator[str]:
    """The paths of whatever is no folder below ``root``, and leads to none."""

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, found in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.relpath(os.path.join(folder, name), root) for name in found)  # noqa: PTH118 - faster


def _fingerprint(status: os.stat_result) -> str:
    """Changes with every write and every replacement. The device does not count: it differs from mount to mount."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


@contextmanager
def _translating(path: Path, *, listed: bool = True) -> Iterator[None]:
    """Errors of the system as ours; what is not there was removed if it was ``listed``."""
    try:
        yield
    except PermissionError as error:
        hint = f"this process runs as uid {os.geteuid()}"
        raise MachineError(f"{error.filename or path}: no permission to read it", hint=hint) from error
    except OSError as error:
        if error.errno in _AWAY:
            hint = "check the mount, and try again: files that were already read are valid"
            reason = f"{path}: its file server does not respond correctly: {error.strerror}"
            raise Unreachable(reason, hint=hint) from error
        if error.errno not in _NOWHERE:
            hint = "check the disk or the mount; dmesg may show details"
            raise MachineError(f"{path}: {error.strerror}", hint=hint) from error
        if listed:
            raise Corrupt(f"{path} was removed while it was read", hint="try again") from error
        if os.path.islink(path):  # noqa: PTH114 - never raises
            raise NotFound(f"{path} is a dangling link", hint="check what it points to") from error
        hint = "check the spelling; a repository of the Hub is hf://ORG/NAME, and a folder in one hf://ORG/NAME/FOLDER"
        raise NotFound(f"there is no folder {path}", hint=hint) from error
