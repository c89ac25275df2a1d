"""The values of tensors: decoded as torch does, and scanned for what is wrong with them, streamed."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lora_cli.adapter.reading import read_adapter
from lora_cli.adapter.safetensors import DTYPE_BITS, TORCH_NAMES
from lora_cli.adapter.values import (
    NUMPY,
    PIECE,
    SCANNED,
    Magnitude,
    TensorStats,
    decode,
    load,
    scan_values,
    stats_of,
)
from lora_cli.errors import Corrupt, FormatError
from lora_cli.sources.files import files_at
from tests.making import NAMES, Q_PROJ, Raw, lora_config, raw, write_adapter

TORCH = {dtype: getattr(torch, TORCH_NAMES[dtype]) for dtype in NUMPY}
EIGHT_BITS = [dtype for dtype in SCANNED if dtype.startswith("F8")]
A, B = f"base_model.model.{Q_PROJ}.lora_A.weight", f"base_model.model.{Q_PROJ}.lora_B.weight"
OK = TensorStats(nonfinite=False, zero=False)
ZERO = TensorStats(nonfinite=False, zero=True)


def scan(directory: Path) -> dict[str, TensorStats]:
    files = files_at(directory)
    return scan_values(files, read_adapter(files, "sql"))


def as_torch(bits: npt.NDArray[Any], dtype: str) -> torch.Tensor:
    """The same bits as a tensor of torch."""
    return torch.frombuffer(bytearray(bits.tobytes()), dtype=torch.uint8).view(TORCH[dtype])


def loaded(directory: Path) -> tuple[Any, str]:
    files = files_at(directory)
    tensor = read_adapter(files, "sql").tensors[A]
    return load(files, tensor), tensor.dtype


def written(directory: Path, tensor: torch.Tensor) -> Path:
    (directory / "adapter_config.json").write_text(json.dumps(lora_config([])))
    save_file({A: tensor}, directory / "adapter_model.safetensors")
    return directory


@pytest.mark.parametrize("dtype", TORCH)
def test_every_float_is_read_as_torch_reads_it(dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(37, 5) * 3).to(TORCH[dtype])
    bits, told = loaded(written(tmp_path, tensor))
    assert told == dtype
    np.testing.assert_array_equal(decode(bits, dtype), tensor.to(torch.float64).numpy())


@pytest.mark.parametrize("dtype", [dtype for dtype in NUMPY if DTYPE_BITS[dtype] <= 16])
def test_every_pattern_of_a_narrow_float_is_decoded_as_torch_decodes_it(dtype: str) -> None:
    size = DTYPE_BITS[dtype] // 8
    bits = np.arange(256**size, dtype=f"<u{size}")
    values = decode(bits, dtype)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, as_torch(bits, dtype).to(torch.float32).numpy())


def test_tensors_of_a_pickle_may_share_their_bytes(tmp_path: Path) -> None:
    shared = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    for tensor in (shared, shared[2:4], shared[3:]):
        (tmp_path / "adapter_config.json").write_text(json.dumps(lora_config([])))
        torch.save({A: tensor, "shared": shared}, tmp_path / "adapter_model.bin")
        bits, dtype = loaded(tmp_path)
        np.testing.assert_array_equal(decode(bits, dtype), tensor.numpy())
        files = files_at(tmp_path)
        assert scan_values(files, read_adapter(files, "sql"))[A].zero is False


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BITS) - set(NUMPY)))
def test_what_is_no_float_of_whole_bytes_is_not_decoded(dtype: str) -> None:
    with pytest.raises(FormatError, match=f"{dtype} is not a float type"):
        decode(np.zeros(2, "u1"), dtype)


def test_a_file_that_ends_early_is_corrupt(tmp_path: Path) -> None:
    files = files_at(written(tmp_path, torch.ones(2, 2, dtype=torch.int32)))
    adapter = read_adapter(files, "sql")
    longer = replace(adapter.tensors[A], shape=(4, 2), stop=adapter.tensors[A].stop + 16)
    with pytest.raises(Corrupt, match="ends 16 bytes before the end of"):
        load(files, longer)
    with pytest.raises(Corrupt, match="ends 16 bytes before the end of"):
        scan_values(files, replace(adapter, tensors={A: longer}))


def test_a_good_adapter_has_finite_values_that_are_not_all_zero(tmp_path: Path) -> None:
    assert scan(write_adapter(tmp_path)) == {A: OK, B: OK}


@pytest.mark.parametrize("dtype", NAMES)
def test_one_nonfinite_value_and_zeros_of_either_sign_are_found(tmp_path: Path, dtype: str) -> None:
    for bad, at, zero in ((np.nan, 0, 0.0), (np.inf, 100, -0.0), (-np.inf, 255, 0.0)):
        array = np.ones(256, dtype=np.float32)
        array[at] = bad
        tensors = {A: raw(array.reshape(4, 64), dtype), B: raw(np.full((64, 4), zero), dtype)}
        write_adapter(tmp_path, dtype=dtype, tensors=tensors)
        assert scan(tmp_path) == {A: TensorStats(nonfinite=True, zero=False), B: ZERO}


def test_the_pieces_of_a_tensor_are_taken_together(tmp_path: Path) -> None:
    array = np.full(PIECE, 0.5, dtype=np.float32)
    array[-1] = -7
    broken = np.concatenate([[np.nan], array])
    write_adapter(tmp_path, tensors={A: array.reshape(4, -1), B: broken.astype("f4").reshape(1, -1)})
    found = scan(tmp_path)
    assert found == {A: OK, B: TensorStats(nonfinite=True, zero=False)}
    assert found[A].magnitude == pytest.approx((7, np.linalg.norm(array.astype("f8"))), rel=1e-5)


def test_an_empty_tensor_is_zero_and_those_around_it_are_read(tmp_path: Path) -> None:
    write_adapter(tmp_path, tensors={A: Raw("F32", (0, 64), b"")})
    assert scan(tmp_path) == {A: ZERO, B: OK}
    assert scan(tmp_path)[A].magnitude == Magnitude(0, 0)


floats = st.floats(width=64) | st.floats(width=32) | st.sampled_from([0.0, -0.0, np.inf, np.nan])


@pytest.mark.parametrize("dtype", NAMES)
@settings(deadline=None, max_examples=60)
@given(st.lists(floats, min_size=1, max_size=9))
def test_any_floats_are_measured_as_torch_measures_them_in_double_precision(dtype: str, numbers: list[float]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        tensor = raw(np.array(numbers), dtype)
    true = as_torch(np.frombuffer(tensor.data, "u1"), tensor.dtype).to(torch.float64)
    found = stats_of(tensor.dtype, tensor.data)
    assert found.nonfinite == (not true.isfinite().all())
    assert found.zero == (not true.any())
    if found.nonfinite:
        assert found.magnitude is None
        return
    assert found.magnitude is not None
    assert found.magnitude.largest == float(true.abs().max())
    assert found.magnitude.norm == pytest.approx(math.hypot(*true.tolist()), rel=1e-5, abs=1e-320)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_every_byte_of_the_eight_bit_floats_is_judged_as_torch_judges_it(dtype: str) -> None:
    kind = TORCH.get(dtype, torch.float8_e8m0fnu)
    for byte in range(256):
        value = torch.tensor([byte], dtype=torch.uint8).view(kind).float()
        found = stats_of(dtype, bytes([byte]))
        assert (found.nonfinite, found.zero) == (not value.isfinite().item(), value.item() == 0), byte
        assert found.magnitude is None


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BITS) - set(SCANNED)))
def test_integers_booleans_and_floats_of_less_than_a_byte_are_always_finite(dtype: str) -> None:
    assert stats_of(dtype, b"\xff" * 24) == OK
    assert stats_of(dtype, b"\x00" * 24) == ZERO
    assert stats_of(dtype, b"\x00" * 23 + b"\x80") == OK


def test_either_part_of_a_complex_number_can_be_infinite() -> None:
    infinite = (0x7F80_0000).to_bytes(4, "little")
    for piece in (bytes(4) + infinite, infinite + bytes(4)):
        assert stats_of("C64", piece) == TensorStats(nonfinite=True, zero=False)
    assert stats_of("C64", bytes(7) + b"\x80") == ZERO
