"""The cache that ``huggingface_hub`` keeps on this machine: which commits it has, of which files, and their bytes.

``<folder>/models--ORG--NAME`` holds ``refs/<branch>`` (a commit), ``trees/<commit>.json`` (the listing of one that was
downloaded as a whole), ``snapshots/<commit>/`` (links to blobs) and ``blobs/<digest>``: a git blob id or, of an LFS
file, a sha256. A blob may be a link to ``<folder>/blobs``, which repositories share. The names of blobs are promises,
to be held when their bytes are hashed. Nothing is written here.
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import MachineError, NotFound, Offline
from lora_cli.sources.hub_listing import files_of
from lora_cli.sources.listed_paths import MOST_ENTRIES

CHUNK = 1 << 20
LISTING_CAP = 16 * 1024 * 1024
ONLINE = "unset --offline, LORA_CLI_OFFLINE and HF_HUB_OFFLINE, or fetch it first with network access"
COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)


def hub_cache_folder() -> Path:
    """The cache folder of ``huggingface_hub``."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@dataclass(frozen=True, slots=True)
class HubCache:
    """The cache in ``folder``, which need not exist."""

    folder: Path

    def revision(self, ref: AdapterRef) -> Revision | None:
        """The cached revision of ``ref``: a commit, its files, and whether those are all that it has.

        The listing is the Hub's own where it is there; else what was downloaded of the commit, and the revision is not
        ``whole``. None when the cache does not know it.

        Raises:
            NotFound: the commit has no such folder.
            Refused, Unreachable: the listing is not one, as of a server.
        """
        repository = _repository(self.folder, ref.location)
        commit = _commit(repository, ref.revision)
        if commit is None:
            return None
        listing = _listing(repository / "trees" / f"{commit}.json")
        entries = listing if listing is not None else _linked(repository / "snapshots" / commit)
        if not entries:
            return None
        files = files_of(entries, str(ref), ref.subfolder)
        if ref.subfolder and not files:
            raise NotFound(f"{ref}: there is no folder {ref.subfolder} in {commit}", hint="check the spelling")
        return Revision(ref, commit, files, whole=listing is not None)

    @contextmanager
    def blob(self, location: str, file: RemoteFile) -> Iterator[int | None]:
        """A descriptor of a plain file that is named as ``file`` and has its size; None when there is none.

        Its bytes are to be hashed before they are believed: the Hub's client accepts what it is sent.
        """
        digest = file.sha256 or file.git_sha1
        path = _plain(self.folder, _repository(self.folder, location) / "blobs" / digest) if digest else None
        try:
            # Without O_NONBLOCK opening a FIFO would block.
            descriptor = os.open(path or "", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            yield None
            return
        try:
            status = os.fstat(descriptor)
            fits = stat.S_ISREG(status.st_mode) and file.size in (None, status.st_size)
            yield descriptor if fits else None
        finally:
            os.close(descriptor)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the file as they are here, in chunks of at most 1 MiB.

        Raises:
            Offline: it is not here.
            MachineError: it cannot be read.
        """
        what = f"{revision.ref}: {file.path}"
        with self.blob(revision.ref.location, file) as descriptor:
            if descriptor is None:
                raise Offline(f"{what} is not cached and offline mode is on", hint=ONLINE)
            try:
                size = os.fstat(descriptor).st_size
                end = size if stop is None else min(stop, size)
                while start < end and (chunk := os.pread(descriptor, min(CHUNK, end - start), start)):
                    start += len(chunk)
                    yield chunk
            except OSError as error:
                raise MachineError(f"{what}: {self.folder}: {error.strerror}", hint="check HF_HUB_CACHE") from error


def _repository(folder: Path, location: str) -> Path:
    return folder / "--".join(("models", *location.split("/")))


def _commit(repository: Path, revision: str | None) -> str | None:
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    text = _small(repository / "refs" / (revision or "main"), 64)
    commit = text.decode("ascii", errors="replace").strip() if text is not None else ""
    return commit if COMMIT.fullmatch(commit) else None


def _plain(folder: Path, path: Path) -> Path | None:
    """``path``, or what it links to among the blobs that repositories share; None for any other link."""
    if not path.is_symlink():
        return path
    try:
        real, shared = path.resolve(strict=True), (folder / "blobs").resolve()
    except (OSError, RuntimeError):
        return None
    return real if real.is_relative_to(shared) else None


def _listing(path: Path) -> list[Any] | None:
    """The listing of a commit in the form in which the Hub sends it; None when there is none of a known form."""
    data = _small(path, LISTING_CAP)
    try:
        known = json.loads(data or b"null")
        if known["format_version"] != 1:
            return None
        return [_entry(path, info) for path, info in known["files"].items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _entry(path: str, info: Mapping[str, Any]) -> dict[str, Any]:
    lfs = {"oid": info["lfs_sha256"], "size": info.get("lfs_size")} if info.get("lfs_sha256") else None
    return {"type": "file", "path": path, "size": info.get("size"), "oid": info.get("blob_id"), "lfs": lfs}


def _linked(snapshot: Path) -> list[Any]:
    """The files of a snapshot that are links to blobs, by the names of those; at most ``MOST_ENTRIES``."""
    entries: list[Any] = []
    seen = 0
    for parent, _, names in os.walk(snapshot):
        for name in names:
            seen += 1
            path = Path(parent, name)
            if seen > MOST_ENTRIES:
                return entries
            if not path.is_symlink():
                continue
            digest = path.readlink().name
            try:
                size = path.stat().st_size
            except OSError:
                continue
            if _DIGEST.fullmatch(digest):
                lfs = {"oid": digest, "size": size} if len(digest) == 64 else None
                inside = path.relative_to(snapshot).as_posix()
                entries.append({"type": "file", "path": inside, "size": size, "oid": digest, "lfs": lfs})
    return entries


def _small(path: Path, limit: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        try:
            data = stream.read(limit + 1)
        except OSError:
            return None
    return data if data is not None and len(data) <= limit else None
