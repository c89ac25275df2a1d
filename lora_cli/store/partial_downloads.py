"""Partial downloads: files that are written in order, so that their length is what has been downloaded.

The next writer renames the file of a dead one to its own name and resumes it. A file of another machine, or from before
a restart of this one, is never claimed, because its writer may be alive: its bytes are copied, and only where a digest
will show whether a power failure lost some of them.
"""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.cachedir_tag import tag_cache
from lora_cli.store.disk import in_folder, on_disk, opened, remove_unfinished, write_all
from lora_cli.store.writer_ids import Writer, let_go, new_writer, parse_writer, state

ELSEWHERE_S = 600.0
"""A file of another machine that has not grown for so long counts as abandoned."""

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Partial:
    """A file that only this process writes, open for reading and writing; ``size`` is its length when it was opened."""

    path: Path
    writer: Writer
    descriptor: int
    size: int


def open_partial(store: Store, key: str, longest: int, *, digest_known: bool = True) -> Partial:
    """A file for the bytes of ``key``: the longest one of a dead writer, else a new one.

    Files of over ``longest`` bytes are not resumed. The caller verifies the bytes; ``digest_known``
    says whether it can.

    Raises:
        MachineError: a disk error.
    """
    folder = store.partials / key
    with on_disk("writing", folder):
        tag_cache(store)
        return in_folder(folder, lambda: _claim(folder, longest) or _create(folder, longest if digest_known else 0))


def leftover_bytes(store: Store, key: str, longest: int) -> int:
    """Length of the partial file of ``key`` that the next writer resumes."""
    try:
        found = _leftovers(store.partials / key)
    except OSError:
        return 0
    usable = (size for size, _, writer in found if size <= longest and state(writer) == "dead")
    return max(usable, default=0)


def release_partial(partial: Partial) -> None:
    """Closes the file and releases it, so that any process can resume it, including this one."""
    os.close(partial.descriptor)
    with suppress(OSError):
        partial.path.rename(partial.path.with_name(str(let_go(partial.writer))))


def remove_partial(partial: Partial) -> None:
    """Closes the file and removes it."""
    os.close(partial.descriptor)
    remove_unfinished(partial.path)


def _leftovers(folder: Path) -> list[tuple[int, Path, Writer]]:
    """Size, path and writer of each partial file, the longest first."""
    found = []
    for path in folder.iterdir():
        writer = parse_writer(path.name)
        with suppress(FileNotFoundError):
            if writer is not None and stat.S_ISREG(path.stat(follow_symlinks=False).st_mode):
                found.append((path.stat().st_size, path, writer))
    return sorted(found, key=lambda entry: entry[0], reverse=True)


def _claim(folder: Path, longest: int) -> Partial | None:
    """Claims the longest file of a dead writer; the shorter ones are removed."""
    claimed: Partial | None = None
    for size, path, writer in _leftovers(folder):
        if state(writer) != "dead":
            continue
        # Another user's files may be protected.
        with suppress(PermissionError):
            if claimed is not None or size == 0 or size > longest:
                path.unlink(missing_ok=True)
            else:
                claimed = _claim_file(path)
    return claimed


def _claim_file(path: Path) -> Partial | None:
    """Claims a file by a rename; None if another process was faster, or if it is not a plain file with one name."""
    writer = new_writer()
    ours = path.with_name(str(writer))
    try:
        path.rename(ours)
    except FileNotFoundError:
        return None
    try:
        descriptor = os.open(ours, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            return Partial(ours, writer, descriptor, status.st_size)
        os.close(descriptor)
    except PermissionError:
        pass  # Another user's: nobody can resume it now.
    ours.unlink()
    return None


def _create(folder: Path, longest: int) -> Partial:
    writer = new_writer()
    path = folder / str(writer)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    partial = Partial(path, writer, descriptor, 0)
    try:
        return replace(partial, size=_copy_from_elsewhere(folder, descriptor, longest))
    except BaseException:
        remove_partial(partial)
        raise


def _copy_from_elsewhere(folder: Path, descriptor: int, longest: int) -> int:
    """Copies an abandoned file of another machine into a new file, and returns the number of bytes."""
    # The time of the new file is by the clock of the file server.
    now = os.fstat(descriptor).st_mtime
    for size, path, writer in _leftovers(folder):
        with suppress(FileNotFoundError, PermissionError):
            stale = state(writer) == "elsewhere" and now - path.stat().st_mtime > ELSEWHERE_S
            if stale and 0 < size <= longest:
                copied = _copy(path, descriptor, size)
                path.unlink(missing_ok=True)
                return copied
    return 0


def _copy(path: Path, descriptor: int, size: int) -> int:
    copied = 0
    with opened(path) as source:
        while copied < size and (chunk := os.pread(source, min(CHUNK, size - copied), copied)):
            write_all(descriptor, chunk, copied)
            copied += len(chunk)
    return copied
