"""The disk cache: content-addressed blobs, snapshots that an engine can load, and records of resolved references.

Correctness never depends on a lock: files and folders are complete before they get their final name.
"""

from pathlib import Path


class Store:
    """The paths in a cache. Constructing it touches nothing; folders are created with their first file.

    ``refs`` has the records of references, ``partials`` unfinished files (``<key>.part``) and folders, and ``locks``
    the locks of running downloads and of snapshots in use.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs, self.snapshots = root.joinpath("blobs", "sha256"), root.joinpath("snapshots", "sha256")
        self.refs, self.partials, self.locks = root / "refs", root / "tmp", root / "locks"

    def blob(self, sha256: str) -> Path:
        """The path of the blob with that sha256, whether it exists or not."""
        return self.blobs.joinpath(sha256[:2], sha256)

    def snapshot(self, digest: str) -> Path:
        """The path of the snapshot with that digest, whether it exists or not."""
        return self.snapshots / digest
