"""The disk cache: content-addressed blobs, snapshots that an engine can load, and the revisions of references.

Nothing in it is correct because of a lock: what has a final name was complete before it got it.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Store:
    """Where everything in a cache is. Making one touches nothing; folders come with the first file in them."""

    root: Path

    @cached_property
    def blobs(self) -> Path:
        """Folder of the bytes, by the first two digits of their sha256."""
        return self.root.joinpath("blobs", "sha256")

    @cached_property
    def snapshots(self) -> Path:
        """Folder of the snapshots, by digest."""
        return self.root.joinpath("snapshots", "sha256")

    @cached_property
    def refs(self) -> Path:
        """Folder of the records of what references meant."""
        return self.root / "refs"

    @cached_property
    def adapters(self) -> Path:
        """Folder of the views by name: what an engine's resolver is given."""
        return self.root / "adapters"

    @cached_property
    def packed(self) -> Path:
        """Folder of the packed weights, by snapshot digest."""
        return self.root / "packed"

    @cached_property
    def links(self) -> Path:
        """Folder of the marks of blobs that are hard links to files outside the cache, by sha256."""
        return self.root / "links"

    @cached_property
    def partials(self) -> Path:
        """Folder of what is being written: ``<key>/<writer>``."""
        return self.root / "tmp"

    @cached_property
    def leases(self) -> Path:
        """Folder of the leases: who downloads what now."""
        return self.root / "leases"

    @cached_property
    def quarantine(self) -> Path:
        """Folder of what was found corrupt."""
        return self.root / "quarantine"

    def blob(self, sha256: str) -> Path:
        """Where the bytes of that sha256 are, if they are here."""
        return self.blobs.joinpath(sha256[:2], sha256)

    def snapshot(self, digest: str) -> Path:
        """Where the snapshot of that digest is, if it is here."""
        return self.snapshots / digest
