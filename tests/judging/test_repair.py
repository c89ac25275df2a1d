"""Weights that are written: through the safetensors library, and always the same bytes."""

import errno
import math
import random
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, TensorSpec, deserialize, safe_open

from lora_cli.adapter.safetensors import DTYPE_BITS, TORCH_NAMES, TensorInfo
from lora_cli.adapter.safetensors_writer import write_errors
from lora_cli.judging.repair import write_tensors
from lora_cli.repair.draft import copy_of
from tests.making import Raw

raws = st.builds(
    lambda dtype, shape, fill: Raw(dtype, shape, bytes([fill]) * (math.prod(shape) * DTYPE_BITS[dtype] // 8)),
    st.sampled_from(sorted(TORCH_NAMES)),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.integers(0, 255),
)
files = st.dictionaries(st.text(max_size=12).filter(lambda name: name != "__metadata__"), raws, min_size=1, max_size=5)
metadatas = st.dictionaries(st.text(max_size=12), st.text(max_size=12), min_size=1, max_size=6)


def write(path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str]) -> bytes:
    made = {name: copy_of(TensorInfo(name, one.dtype, one.shape, 0, 0, "")) for name, one in tensors.items()}
    write_tensors(path, made, metadata, lambda name: np.frombuffer(tensors[name].data, "u1"))
    return path.read_bytes()


@settings(deadline=None, max_examples=40)
@given(files, metadatas, st.randoms(use_true_random=False))
def test_what_is_written_is_what_the_library_reads_and_the_same_bytes_each_time(
    tensors: Mapping[str, Raw], metadata: Mapping[str, str], order: random.Random
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "adapter_model.safetensors"
        data = write(path, tensors, metadata)
        theirs: Any = deserialize  # it has no types
        read = {name: Raw(one["dtype"], tuple(one["shape"]), bytes(one["data"])) for name, one in theirs(data)}
        assert read == tensors
        with safe_open(path, "np") as file:
            assert file.metadata() == metadata
        shuffled = order.sample(list(metadata.items()), len(metadata))
        assert write(path, dict(order.sample(list(tensors.items()), len(tensors))), dict(shuffled)) == data


def test_the_library_knows_every_dtype_whose_elements_fill_whole_bytes() -> None:
    assert set(TORCH_NAMES) == {dtype for dtype, bits in DTYPE_BITS.items() if bits >= 8}
    for dtype, name in TORCH_NAMES.items():
        assert TensorSpec(dtype=name, shape=[0], data_ptr=0, data_len=0).dtype == dtype


def test_the_file_may_be_read_by_whom_the_user_lets_read_files(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write(tmp_path / "adapter_model.safetensors", {"a": Raw("U8", (1,), b"1")}, {"format": "pt"})
    assert (tmp_path / "adapter_model.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_write_that_fails_keeps_the_number_of_its_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        write(tmp_path / "missing" / "adapter_model.safetensors", {"a": Raw("U8", (1,), b"1")}, {"format": "pt"})
    assert raised.value.errno == errno.ENOENT
    with pytest.raises(OSError, match="No space left on device") as full, write_errors():
        raise SafetensorError('Error while serializing: I/O error: No space left (os error 28) at path "a"')
    assert full.value.errno == errno.ENOSPC
