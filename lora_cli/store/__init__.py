"""The disk cache: content-addressed blobs, snapshots that an engine can load, and records of resolved references.

Correctness never depends on a lock: files and folders are complete before they get their final name; without one the
same bytes are downloaded twice, or fetched again. Locks are flock(2)'s: the kernel lets them go however a process ends.
"""

import fcntl
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lora_cli.errors import MachineError, UsageError
from lora_cli.store.disk import FULL, create, on_disk, read_small, replace_file

TAG = "CACHEDIR.TAG"
"""Identifies a cache and excludes it from backups (https://bford.info/cachedir/). A folder without is never cleaned."""

SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
TEXT = b"""%s
# This file is a cache directory tag created by lora-cli.
# For information about cache directory tags, see https://bford.info/cachedir/
"""

SHORTEST_S, LONGEST_S = 0.01, 0.2
OTHERS_S = 60.0
"""How long to wait for another process that removes a snapshot or publishes an adapter, which takes moments."""


class Store:
    """The paths in a cache. Constructing it touches nothing; folders are created with their first file.

    ``refs`` has the records of references, ``partials`` unfinished files (``<key>.part``), and ``locks`` the locks of
    running downloads and of snapshots in use.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs, self.snapshots = root.joinpath("blobs", "sha256"), root.joinpath("snapshots", "sha256")
        self.refs, self.partials, self.locks = root / "refs", root / "tmp", root / "locks"
        self._tagged = False

    def blob(self, sha256: str) -> Path:
        """The path of the blob with that sha256, whether it exists or not."""
        return self.blobs.joinpath(sha256[:2], sha256)

    def snapshot(self, digest: str) -> Path:
        """The path of the snapshot with that digest, whether it exists or not."""
        return self.snapshots / digest

    def is_cache(self) -> bool:
        """Whether the tag is lora-cli's: other programs tag their caches, too."""
        data = read_small(self.root / TAG, 4096) or b""
        return data.startswith(SIGNATURE) and b"lora-cli" in data

    def tag(self) -> None:
        """Tags a missing or empty folder before the first file is written to it.

        A folder with other files stays untagged, since backups must not skip these. Raises ``OSError``.
        """
        if not (self._tagged or os.path.lexists(self.root / TAG)) and self._is_empty():
            replace_file(self.root / TAG, TEXT % SIGNATURE)
        self._tagged = True

    def check_folder(self) -> None:
        """Checks that the cache is a folder, or missing. Raises ``MachineError``."""
        # lexists comes first: another thread may create it. isdir never raises: who needs the folder reports that.
        if os.path.lexists(self.root) and not os.path.isdir(self.root):  # noqa: PTH112
            what = "a file" if self.root.exists() else "a dangling link"
            raise MachineError(f"{self.root}: the cache is {what}", hint="set --cache-dir to a folder")

    def check_cache(self) -> None:
        """Raises ``UsageError`` unless files there may be removed: the folder is tagged, empty or missing.

        ``MachineError`` if it is no folder, or cannot be read.
        """
        self.check_folder()
        with on_disk("reading", self.root):
            if not (self._is_empty() or self.is_cache()):
                hint = f"check --cache-dir; if it is a cache, copy the {TAG} of another one into it"
                raise UsageError(f"{self.root} is not a cache of lora-cli: its {TAG} is missing", hint=hint)

    @contextmanager
    def lock(
        self, key: str, wait_s: float = 0.0, on_wait: Callable[[], None] = lambda: None, *, shared: bool = False
    ) -> Iterator[bool | None]:
        """Holds the lock of ``key``: True; False if another process has it after ``wait_s``, None if nobody can.

        A ``shared`` one is held together with others. ``on_wait`` is called once if another process has it. On a full
        disk a lock that does not exist counts as held. Its file stays: ext4 looks longer for room for new files the
        more were just removed.
        """
        path, descriptor, held, pause = self.locks / key, None, None, 0.0
        how, until_s = fcntl.LOCK_SH if shared else fcntl.LOCK_EX, time.monotonic() + wait_s
        try:
            with suppress(OSError):
                self.tag()
            while descriptor is None:
                try:
                    descriptor = claim(path, how)
                except BlockingIOError:
                    if time.monotonic() >= until_s:
                        break
                    if not pause:
                        on_wait()
                    pause = min(max(pause * 1.5, SHORTEST_S), LONGEST_S)
                    time.sleep(pause)
            held = descriptor is not None
        except OSError as error:
            held = True if error.errno in FULL else None
        try:
            yield held
        finally:
            if descriptor is not None:
                with suppress(OSError):  # also for forks of this process
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def _is_empty(self) -> bool:
        """Whether there are no files, except those of a file system or of a dead writer of the tag."""
        names = [path.name for path in self.root.iterdir()] if self.root.is_dir() else []
        return all(name == "lost+found" or name.startswith(f".{TAG}.") for name in names)


class InUse(ExitStack):
    """The snapshots that this process uses, which garbage collection leaves alone until ``close``. Threads share it."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store, self._held, self._lock = store, set[str](), threading.Lock()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # The other half is for files and connections. Beyond it, a snapshot is protected by being the last used.
        self._most = sys.maxsize if files == resource.RLIM_INFINITY else files // 2

    def add(self, digest: str) -> bool:
        """Holds the lock of a snapshot and returns whether it is there; if so, it stays."""
        with self._lock:
            if digest not in self._held and len(self._held) < self._most:
                self._held.add(digest)
                self.callback(self._held.discard, digest)
                self.enter_context(self._store.lock(digest, OTHERS_S, shared=True))
        directory = self._store.snapshot(digest)
        try:
            os.utime(directory)  # by which garbage collection sees a use since it began
        except OSError:  # it is gone, or another user's
            return directory.is_dir()
        return True


def claim(path: Path, how: int = fcntl.LOCK_EX, mode: int = 0o666) -> int | None:
    """The file, locked and open; None if it was replaced meanwhile. ``BlockingIOError`` if another process has it."""
    with ExitStack() as stack:
        descriptor = create(path, os.O_RDWR | os.O_NOFOLLOW, mode)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        if is_named(path, descriptor):
            stack.pop_all()
            return descriptor
    return None


def is_named(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is the open file: another process may have removed, renamed or replaced it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    return False
