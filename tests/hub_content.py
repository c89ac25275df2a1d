"""What the test Hub holds: repositories, their commits, and the files in them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Content = bytes | str | Mapping[str, Any] | Path
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".model")
LFS_SIZE = 10_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of one commit. ``content`` is its bytes, or where they lie on this disk."""

    path: str
    content: bytes | Path
    size: int
    oid: str
    sha256: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub promises: the sha256 of an LFS file, the git blob id of any other."""
        return self.sha256 if self.lfs else self.oid

    def listed(self) -> dict[str, Any]:
        """The file as the tree listing shows it."""
        shown: dict[str, Any] = {"type": "file", "path": self.path, "size": self.size, "oid": self.oid}
        if self.lfs:
            shown["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(pointer(self.sha256, self.size))}
        return shown

    def sibling(self) -> dict[str, Any]:
        """The file as the description of a repository shows it with ``blobs``."""
        shown: dict[str, Any] = {"rfilename": self.path, "size": self.size, "blobId": self.oid}
        if self.lfs:
            shown["lfs"] = {"sha256": self.sha256, **self.listed()["lfs"]}
            del shown["lfs"]["oid"]
        return shown


@dataclass(frozen=True, slots=True)
class Commit:
    """An immutable set of files."""

    id: str
    files: Mapping[str, Entry]

    def listing(self, folder: str = "") -> list[dict[str, Any]]:
        """Files and folders below ``folder``, sorted by path."""
        shown: dict[str, dict[str, Any]] = {}
        inside = f"{folder}/" if folder else ""
        for path, entry in self.files.items():
            parts = path.removeprefix(inside).split("/")
            if path.startswith(inside):
                for parent in (inside + "/".join(parts[:depth]) for depth in range(1, len(parts))):
                    oid = hashlib.sha1(parent.encode()).hexdigest()
                    shown[parent] = {"type": "directory", "path": parent, "size": 0, "oid": oid}
                shown[path] = entry.listed()
        return [shown[path] for path in sorted(shown)]


@dataclass(slots=True)
class Repo:
    """A repository: its commits, the branches that point at them, and who may see it."""

    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit_at(self, revision: str) -> Commit | None:
        """The commit that a branch or a commit id means."""
        return self.commits.get(self.branches.get(revision, revision))

    def add(self, entries: Iterable[Entry], branch: str) -> Commit:
        """A new commit with exactly these files; ``branch`` points at it from now on."""
        files = {entry.path: entry for entry in entries}
        lines = [self.id, self.branches.get(branch, ""), *(f"{path} {e.sha256}" for path, e in sorted(files.items()))]
        commit = Commit(hashlib.sha1("\n".join(lines).encode()).hexdigest(), files)
        self.commits[commit.id] = commit
        self.branches[branch] = commit.id
        return commit


def pointer(sha256: str, size: int) -> bytes:
    """The git-lfs pointer file, whose blob id is the ``oid`` of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_blob_id(content: bytes) -> str:
    """The sha1 that git gives to these bytes as a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: Content) -> Entry:
    """A file; a mapping is written as JSON, a path stays on disk and is served from there."""
    if isinstance(content, Mapping):
        content = json.dumps(content).encode()
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, Path):
        size = content.stat().st_size
        with content.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    lfs = path.endswith(LFS_SUFFIXES) or size > LFS_SIZE
    if lfs:
        return Entry(path, content, size, git_blob_id(pointer(sha256, size)), sha256, lfs)
    blob = content.read_bytes() if isinstance(content, Path) else content
    return Entry(path, content, size, git_blob_id(blob), sha256, lfs)


def entries_under(directory: Path) -> list[Entry]:
    """Every regular file under ``directory``, as the files of one commit."""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return [entry(path.relative_to(directory).as_posix(), path) for path in found]
