"""The values of tensors: decoded and encoded as torch does, and scanned for what is wrong with them, streamed."""

import json
import math
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
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
from lora_cli.adapter.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.adapter.values import (
    MEASURED,
    NUMPY,
    PIECE,
    SCANNED,
    Magnitude,
    TensorStats,
    decode,
    encode,
    load,
    scan_values,
    split_pieces,
    stats_of,
)
from lora_cli.errors import Corrupt, FormatError, LoraCliError
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.sources import Source
from lora_cli.sources.files import Files, files_at
from lora_cli.sources.local import LocalSource
from tests.making import NAMES, Q_PROJ, Raw, lora_config, raw, write_adapter

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
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


@pytest.mark.parametrize("wide", ["F32", "F64"])
@pytest.mark.parametrize("dtype", sorted(MEASURED))
def test_rounding_is_to_the_nearest_as_torchs(dtype: str, wide: str) -> None:
    torch.manual_seed(1)
    unusual = torch.tensor([0.0, -0.0, 1e-40, 3.4e38, 65520.0, float("inf"), -float("inf")])
    values = torch.cat([torch.randn(10_000), unusual]).to(TORCH[wide])
    theirs = values.to(TORCH[dtype])
    ours = encode(values.numpy(), dtype)
    assert ours.tobytes() == theirs.contiguous().view(torch.uint8).numpy().tobytes()
    assert np.isnan(decode(encode(np.array([np.nan], "f4"), dtype), dtype)).all()


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


def test_a_short_file_is_corrupt(tmp_path: Path) -> None:
    written(tmp_path, torch.ones(2, 2, dtype=torch.int32))
    files = files_at(tmp_path)
    tensor = read_adapter(files, "sql").tensors[A]
    beyond = type(tensor)(A, "F32", (100, 100), tensor.start, tensor.start + 40_000, tensor.file)
    with pytest.raises(Corrupt, match="end of"):
        load(files, beyond)


class CutWhileItIsRead(LocalSource):
    """A folder whose weights somebody cuts to their header after the first piece was read."""

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        for number, piece in enumerate(super().read(revision, file, start, stop)):
            yield piece
            if number == 0 and start > 8:
                os.truncate(Path(revision.ref.location) / file.path, start)


def test_a_file_that_is_cut_while_it_is_read_is_corrupt_where_the_librarys_mapping_ends_the_process(
    tmp_path: Path,
) -> None:
    """Why values are not scanned through ``safetensors.safe_open``; its numpy reader has no 8-bit floats either."""
    write_adapter(tmp_path, modules={Q_PROJ: (4096, 4096)}, r=256)
    source = CutWhileItIsRead()
    files = Files(source, source.resolve(AdapterRef("file", str(tmp_path))))
    adapter = read_adapter(files, "cut")
    with pytest.raises(LoraCliError, match="adapter_model"):
        scan_values(files, adapter)

    write_adapter(tmp_path, modules={Q_PROJ: (4096, 4096)}, r=256)
    name = f"base_model.model.{Q_PROJ}.lora_A.weight"
    library = f"""
import os
from safetensors import safe_open
with safe_open("adapter_model.safetensors", framework="numpy") as file:
    values = file.get_slice({name!r})
    os.truncate("adapter_model.safetensors", 4096)
    values[200:]
"""
    ended = subprocess.run([sys.executable, "-c", library], cwd=tmp_path, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGBUS


def test_a_good_adapter_has_finite_values_that_are_not_all_zero(tmp_path: Path) -> None:
    assert scan(write_adapter(tmp_path)) == {A: OK, B: OK}


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 100, 255])
def test_one_nonfinite_value_is_found_wherever_it_is(tmp_path: Path, dtype: str, bad: float, at: int) -> None:
    array = np.ones(256, dtype=np.float32)
    array[at] = bad
    write_adapter(tmp_path, dtype=dtype, tensors={A: raw(array.reshape(4, 64), dtype)})
    assert scan(tmp_path) == {A: TensorStats(nonfinite=True, zero=False), B: OK}


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_tensor_of_zeros_is_found_whatever_their_sign(tmp_path: Path, dtype: str, zero: float) -> None:
    write_adapter(tmp_path, dtype=dtype, tensors={B: raw(np.full((64, 4), zero), dtype)})
    assert scan(tmp_path) == {A: OK, B: ZERO}


def test_what_is_found_in_one_piece_of_a_tensor_is_kept_through_the_next(tmp_path: Path) -> None:
    array = np.zeros(PIECE // 2, dtype=np.float32)
    array[0] = np.nan
    write_adapter(tmp_path, tensors={A: array.reshape(4, -1), B: np.abs(array[1:]).reshape(1, -1)})
    assert scan(tmp_path) == {A: TensorStats(nonfinite=True, zero=False), B: ZERO}


def test_the_pieces_of_a_tensor_are_measured_together(tmp_path: Path) -> None:
    array = np.full(PIECE, 0.5, dtype=np.float32)
    array[-1] = -7
    write_adapter(tmp_path, tensors={A: array.reshape(4, -1)})
    magnitude = scan(tmp_path)[A].magnitude
    assert magnitude is not None
    assert magnitude.largest == 7
    assert magnitude.norm == pytest.approx(float(np.linalg.norm(array.astype("f8"))), rel=1e-5)


def test_an_empty_tensor_is_zero(tmp_path: Path) -> None:
    write_adapter(tmp_path, tensors={A: Raw("F32", (0, 64), b"")})
    assert scan(tmp_path)[A] == ZERO
    assert scan(tmp_path)[A].magnitude == Magnitude(0, 0)


def test_largest_and_smallest_values_are_finite_and_not_zero(tmp_path: Path) -> None:
    for dtype in (np.float32, np.float16, np.float64):
        info = np.finfo(dtype)
        extremes = np.array([[info.max, info.min, info.tiny, info.smallest_subnormal]], dtype=dtype)
        for column in range(4):
            write_adapter(tmp_path, tensors={A: raw(extremes[:, column : column + 1], dtype.__name__)})
            assert scan(tmp_path)[A] == OK


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


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BITS) - set(SCANNED) - {"F4"}))
def test_integers_booleans_and_floats_of_six_bits_are_always_finite(dtype: str) -> None:
    assert stats_of(dtype, b"\xff" * 24) == OK
    assert stats_of(dtype, b"\x00" * 24) == ZERO
    assert stats_of(dtype, b"\x00" * 23 + b"\x80") == OK


def test_four_bit_zeros_can_be_negative() -> None:
    assert stats_of("F4", b"\x88\x80\x08\x00") == ZERO
    assert stats_of("F4", b"\x88\x81") == OK


@pytest.mark.parametrize(("dtype", "bits"), [("C64", 0x7F80_0000), ("C128", 0x7FF0 << 48)])
def test_either_part_of_a_complex_number_can_be_infinite(dtype: str, bits: int) -> None:
    size = {"C64": 4, "C128": 8}[dtype]
    infinite = bits.to_bytes(size, "little")
    assert stats_of(dtype, bytes(size) + infinite) == TensorStats(nonfinite=True, zero=False)
    assert stats_of(dtype, infinite + bytes(size)) == TensorStats(nonfinite=True, zero=False)
    assert stats_of(dtype, bytes(2 * size - 1) + b"\x80") == ZERO


def tensors_of(*sizes: int) -> list[TensorInfo]:
    ends = np.cumsum(sizes)
    return [
        TensorInfo(str(i), "U8", (size,), int(end) - size, int(end), "f")
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


@given(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(1, 7), max_size=20))
def test_a_stream_is_cut_at_the_tensors_borders_whatever_its_chunks(sizes: list[int], chunks: list[int]) -> None:
    data = bytes(range(sum(sizes)))

    def stream() -> Iterator[bytes]:
        at = 0
        for size in [*chunks, len(data) + 1]:
            if data[at : at + size]:
                yield data[at : at + size]
            at += size

    read = dict.fromkeys(map(str, range(len(sizes))), b"")
    for tensor, piece in split_pieces(tensors_of(*sizes), stream(), "f"):
        assert len(piece) > 0
        read[tensor.name] += bytes(piece)
    assert [len(part) for part in read.values()] == sizes
    assert b"".join(read.values()) == data


def test_a_stream_that_ends_early_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="f: the data ends 3 bytes before the end of 1"):
        list(split_pieces(tensors_of(4, 5), iter([b"123456"]), "f"))


class FillSource(Source):
    """A source of one endless file of ones, in chunks of 1 MiB."""

    def __init__(self) -> None:
        pass

    def resolve(self, ref: AdapterRef) -> Revision:
        return Revision(ref, "fixed", (RemoteFile("f", None),))

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        assert stop is not None
        for at in range(start, stop, 1 << 20):
            yield b"\x3f" * min(1 << 20, stop - at)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path)
    adapter = read_adapter(files_at(directory), "sql")
    nbytes = 64 << 20
    big = {"x": TensorInfo("x", "F32", (nbytes // 4,), 0, nbytes, "f")}
    source = FillSource()
    files = Files(source, source.resolve(AdapterRef("hf", "a/b")))
    tracemalloc.start()
    try:
        stats = scan_values(files, replace(adapter, tensors=big, weight_files=("f",)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stats == {"x": OK}
    assert peak < 12 * PIECE + (4 << 20)
