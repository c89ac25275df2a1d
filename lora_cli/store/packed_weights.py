"""Packed weights: a copy of an adapter's factors alone, in one safetensors file.

``packed/<snapshot digest>/factors.safetensors``, published by one rename. It is never the only copy: a missing or
changed file is created again from the snapshot. Its modification time is that of blobs; a file with another one was
touched, and is not used.
"""

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lora_cli.core.safetensors import Header, TensorInfo, header_length, parse_header
from lora_cli.errors import FormatError
from lora_cli.store import Store
from lora_cli.store.atomic_swap import remove_path, remove_unfinished, replace_folder
from lora_cli.store.blobs import BLOB_MTIME_NS, seal
from lora_cli.store.disk import make_folder, opened
from lora_cli.store.inventory import list_folder
from lora_cli.store.writer_ids import new_writer

FILE = "factors.safetensors"
FORMAT = "lora_cli/packed/4"
CHUNK = 1 << 20

Write = Callable[[Path, Mapping[str, str]], None]
"""Writes the factors as a safetensors file with that metadata. Raises ``OSError``."""


def packed_file(store: Store, digest: str) -> Path:
    """The path of a snapshot's packed weights, whether they exist or not."""
    return store.packed / digest / FILE


def find_packed(store: Store, digest: str, wanted: Iterable[TensorInfo]) -> dict[str, TensorInfo] | None:
    """The ``wanted`` tensors of a snapshot in its packed file, by name; None if that is missing or was changed."""
    header = _read_header(packed_file(store, digest), digest)
    if header is None:
        return None
    found = {}
    for info in wanted:
        there = header.tensors.get(info.name)
        if there is None or (there.dtype, there.shape) != (info.dtype, info.shape):
            return None
        found[info.name] = there
    return found


def publish_packed(store: Store, digest: str, factors: Iterable[TensorInfo], write: Write) -> bool:
    """Packs the ``factors`` of a snapshot by ``write``, in place of an earlier packed file.

    False where this user may not write, or the disk is full: packed weights are optional.
    """
    building = store.partials / digest / str(new_writer())
    try:
        make_folder(building)
        sources = {one.name: [one.file, one.start, one.stop] for one in factors}
        write(building / FILE, {"format": FORMAT, "snapshot": digest, "sources": json.dumps(sources)})
        with opened(building / FILE) as descriptor:
            seal(descriptor)
            os.fsync(descriptor)
        store.packed.mkdir(parents=True, exist_ok=True)
        if (old := replace_folder(building, store.packed / digest)) is not None:
            remove_path(old)
    except OSError:
        return False
    finally:
        remove_unfinished(building)
    return True


def packed_problem(store: Store, digest: str, directory: Path) -> str:
    """Compares packed weights in ``directory`` with the snapshot, byte by byte; the problem in words, or ""."""
    if directory.is_symlink() or [path.name for path in list_folder(directory)] != [FILE]:
        return f"is not a folder with one {FILE}"
    header = _read_header(directory / FILE, digest, touched=True)
    if header is None:
        return f"{FILE} differs from its published version"
    try:
        sources = json.loads(header.metadata["sources"])
        for name, info in header.tensors.items():
            if not _same(store.snapshot(digest), directory, info, sources[name]):
                return f"{name} differs from the snapshot"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{FILE} does not list where in the snapshot its tensors are"
    return ""


def _read_header(path: Path, digest: str, *, touched: bool = False) -> Header | None:
    """The header of a packed file of that snapshot, of the right size and, unless it may be ``touched``, time."""
    try:
        with opened(path) as descriptor:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or (status.st_mtime_ns != BLOB_MTIME_NS and not touched):
                return None
            length = header_length(os.pread(descriptor, 8, 0), status.st_size, FILE)
            header = parse_header(os.pread(descriptor, length, 8), status.st_size, FILE)
    except (OSError, FormatError):
        return None
    ours = (header.metadata.get("format"), header.metadata.get("snapshot")) == (FORMAT, digest)
    return header if ours else None


def _same(snapshot: Path, directory: Path, info: TensorInfo, source: Any) -> bool:
    """Whether a tensor has the bytes of its ``source``: a file of the snapshot, with start and stop there.

    Raises:
        ValueError, TypeError: the source is malformed.
    """
    file, start, stop = source
    if not (isinstance(file, str) and isinstance(start, int) and isinstance(stop, int)):
        raise TypeError
    if file not in {path.name for path in snapshot.iterdir()} or start < 0 or stop - start != info.nbytes:
        return False
    with opened(directory / FILE) as ours, opened(snapshot / file) as theirs:
        return all(
            os.pread(ours, count, info.start + at) == os.pread(theirs, count, start + at)
            for at in range(0, info.nbytes, CHUNK)
            for count in (min(CHUNK, info.nbytes - at),)
        )
