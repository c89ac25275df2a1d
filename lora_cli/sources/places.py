"""Where a folder or file of this machine really is, and where links in it may lead."""

import fcntl
import os
import sys
from collections.abc import Iterable
from pathlib import Path


def located(path: Path) -> tuple[os.stat_result, Path]:
    """What ``path`` leads to now and where that is, by one descriptor: no link that is changed meanwhile can lie.

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


def homes(real: Path) -> tuple[Path, ...]:
    """Where links may lead: inside, and from ``<repository>/snapshots/<commit>`` to the blobs of the Hub's cache."""
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
        return f"is a link to {target} that leads nowhere", None
    if not any(real.is_relative_to(home) for home in allowed):
        return f"is a link to {target}, outside of its folder", None
    return "", real.stat()
