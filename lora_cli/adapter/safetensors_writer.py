"""Reproducible safetensors files, written by the safetensors library."""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, TensorSpec, serialize_file

from lora_cli.adapter.safetensors import TORCH_NAMES, TensorInfo


@contextmanager
def write_errors() -> Iterator[None]:
    """Around ``serialize_file`` and ``save_file``: restores the errno of a failed write from the library's message.

    Raises:
        OSError: the write failed.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error


def write_file(path: Path, infos: Iterable[TensorInfo], data: Iterable[bytes], metadata: Mapping[str, str]) -> None:
    """Writes tensors with their ``data``, durably; ``start`` of each counts from the first byte of all data.

    The library takes all tensors at once. To have one in memory at a time, their bytes are written to the file first,
    which is then mapped. The library replaces it by its own file, which only its owner can read.

    Raises:
        OSError: as it comes.
    """
    with path.open("w+b") as stream:
        stream.writelines(data)
        stream.write(b"\0")  # an empty file cannot be mapped
        stream.flush()
        mapped = np.frombuffer(mmap(stream.fileno(), 0, access=ACCESS_READ), "u1")
        specs = {
            info.name: TensorSpec(
                dtype=TORCH_NAMES[info.dtype],
                shape=info.shape,
                data_ptr=mapped.ctypes.data + info.start,
                data_len=info.nbytes,
            )
            for info in infos
        }
        with write_errors():
            serialize_file(specs, path, dict(metadata))
        path.chmod(stat.S_IMODE(os.fstat(stream.fileno()).st_mode))
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Sorts the metadata of a safetensors file by its keys, durably.

    The library writes it in another order each time (https://github.com/huggingface/safetensors/issues/584), and
    repaired adapters are pinned by their digest.
    """
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(text) == length
        stream.seek(8)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
