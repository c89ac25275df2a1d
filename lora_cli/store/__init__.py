"""The disk cache: content-addressed blobs, snapshots that an engine can load, and records of resolved references.

Correctness never depends on a lock: files and folders are complete before they get their final name.
"""

import os
from pathlib import Path

from lora_cli.errors import MachineError, UsageError
from lora_cli.store.disk import on_disk, read_small, replace_file

TAG = "CACHEDIR.TAG"
"""Identifies a cache and excludes it from backups (https://bford.info/cachedir/). A folder without is never cleaned."""

SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
TEXT = b"""%s
# This file is a cache directory tag created by lora-cli.
# For information about cache directory tags, see https://bford.info/cachedir/
"""


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

    def _is_empty(self) -> bool:
        """Whether there are no files, except those of a file system or of a dead writer of the tag."""
        names = [path.name for path in self.root.iterdir()] if self.root.is_dir() else []
        return all(name == "lost+found" or name.startswith(f".{TAG}.") for name in names)
