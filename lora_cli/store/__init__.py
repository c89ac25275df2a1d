"""The disk cache: content-addressed blobs, snapshots that an engine can load, and records of resolved references.

Correctness never depends on a lock: files and folders are complete before they get their final name.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Store:
    """The paths in a cache. Constructing it touches nothing; folders are created with their first file."""

    root: Path

    @cached_property
    def blobs(self) -> Path:
        """Folder of the blobs, in subfolders by the first two digits of their sha256."""
        return self.root.joinpath("blobs", "sha256")

    @cached_property
    def snapshots(self) -> Path:
        """Folder of the snapshots, by digest."""
        return self.root.joinpath("snapshots", "sha256")

    @cached_property
    def refs(self) -> Path:
        """Folder of the records of resolved references."""
        return self.root / "refs"

    @cached_property
    def partials(self) -> Path:
        """Folder of unfinished files (``<key>.part``) and folders."""
        return self.root / "tmp"

    @cached_property
    def locks(self) -> Path:
        """Folder of the locks of running downloads, and of snapshots in use."""
        return self.root / "locks"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of these, and the folders that two of them are in."""
        own = (self.blobs, self.snapshots, self.refs)
        return self.blobs.parent, self.snapshots.parent, *own, self.partials, self.locks

    def blob(self, sha256: str) -> Path:
        """The path of the blob with that sha256, whether it exists or not."""
        return self.blobs.joinpath(sha256[:2], sha256)

    def snapshot(self, digest: str) -> Path:
        """The path of the snapshot with that digest, whether it exists or not."""
        return self.snapshots / digest
