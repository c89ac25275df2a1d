"""The values of tensors: decoded as torch does, and measured, streamed."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.reading import read_adapter
from lora_cli.adapter.safetensors import DTYPE_BITS, TORCH_NAMES
from lora_cli.adapter.values import PIECE, SCANNED, load, scan_values, stats_of
from lora_cli.errors import Corrupt, FormatError
from lora_cli.sources.files import files_at
from tests.making import NAMES, Q_PROJ, Raw, raw, write_adapter

A, B = f"base_model.model.{Q_PROJ}.lora_A.weight", f"base_model.model.{Q_PROJ}.lora_B.weight"


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_elements_are_loaded_as_they_are_stored(dtype: str, tmp_path: Path) -> None:
    data = bytes(range(48))
    files = files_at(write_adapter(tmp_path, tensors={A: Raw(dtype, (2, 24 * 8 // DTYPE_BITS[dtype]), data)}))
    tensor = read_adapter(files, "sql").tensors[A]
    if dtype in TORCH_NAMES:
        loaded = load(files, tensor).view(TORCH_NAMES[dtype])
        assert (loaded.shape, loaded.tobytes()) == (tensor.shape, data)
    else:
        with pytest.raises(FormatError, match="cannot be read as numbers"):
            load(files, tensor)


def test_tensors_of_a_pickle_may_share_their_bytes(tmp_path: Path) -> None:
    shared = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    (write_adapter(tmp_path) / "adapter_model.safetensors").unlink()
    for tensor in (shared, shared[2:4], shared[3:]):
        torch.save({A: tensor, "shared": shared}, tmp_path / "adapter_model.bin")
        files = files_at(tmp_path)
        adapter = read_adapter(files, "sql")
        np.testing.assert_array_equal(load(files, adapter.tensors[A]).view("f4"), tensor.numpy())
        found = scan_values(files, adapter)
        assert (found[A].largest, found["shared"].largest) == (tensor.max().item(), 59)


def test_a_file_that_ends_early_is_corrupt(tmp_path: Path) -> None:
    files = files_at(write_adapter(tmp_path, tensors={B: Raw("I32", (2, 2), bytes(16))}))
    adapter = read_adapter(files, "sql")
    longer = replace(adapter.tensors[B], shape=(4, 2), stop=adapter.tensors[B].stop + 16)
    with pytest.raises(Corrupt, match="ends 16 bytes before the end of"):
        load(files, longer)
    with pytest.raises(Corrupt, match="ends 16 bytes before the end of"):
        scan_values(files, replace(adapter, tensors={B: longer}))


def test_the_pieces_of_a_tensor_are_taken_together_and_an_empty_one_is_zero(tmp_path: Path) -> None:
    array = np.full(PIECE, 0.5, dtype=np.float32)
    array[-1] = -7
    broken = np.concatenate([[np.nan], array]).astype("f4").reshape(1, -1)
    files = files_at(
        write_adapter(tmp_path, tensors={A: array.reshape(4, -1), "empty": Raw("F32", (0, 64), b""), B: broken})
    )
    found = scan_values(files, read_adapter(files, "sql"))
    assert found[A] == pytest.approx((7, np.linalg.norm(array.astype("f8"))), rel=1e-5)
    assert (found["empty"], found[B].largest) == ((0, 0), math.inf)


floats = st.floats(width=64) | st.floats(width=32) | st.sampled_from([0.0, -0.0, np.inf, np.nan])


@pytest.mark.parametrize("dtype", NAMES)
@settings(deadline=None, max_examples=60)
@given(st.lists(floats, min_size=1, max_size=9))
def test_any_floats_are_measured_as_torch_measures_them_in_double_precision(dtype: str, numbers: list[float]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        tensor = raw(np.array(numbers), dtype)
    bits = torch.frombuffer(bytearray(tensor.data), dtype=torch.uint8)
    true = bits.view(getattr(torch, TORCH_NAMES[tensor.dtype])).to(torch.float64)
    found = stats_of(tensor.dtype, tensor.data)
    assert math.isinf(found.largest) == math.isnan(found.norm) == (not true.isfinite().all())
    if math.isfinite(found.largest):
        assert found.largest == float(true.abs().max())
        assert found.norm == pytest.approx(math.hypot(*true.tolist()), rel=1e-5, abs=1e-320)


def test_other_dtypes_are_judged_as_torch_judges_them() -> None:
    for dtype in (dtype for dtype in SCANNED if dtype.startswith("F8")):
        values = torch.arange(256, dtype=torch.uint8).view(getattr(torch, TORCH_NAMES[dtype])).float()
        for byte, value in enumerate(values):
            found = stats_of(dtype, bytes([byte]))
            assert (found.largest == math.inf, found.largest == 0) == (not value.isfinite(), value == 0), byte
            assert math.isnan(found.norm)
    for dtype in DTYPE_BITS.keys() - SCANNED.keys():
        assert [stats_of(dtype, it).largest for it in (b"\xff" * 24, bytes(24), bytes(23) + b"\x80")] == [1, 0, 1]
    infinite = (0x7F80_0000).to_bytes(4, "little")
    assert [stats_of("C64", it).largest for it in (bytes(4) + infinite, bytes(7) + b"\x80")] == [math.inf, 0]
