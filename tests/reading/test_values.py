"""What is wrong with the values of an adapter, streamed."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.core.reference import AdapterRef
from lora_cli.core.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt
from lora_cli.reading import values
from lora_cli.reading.adapter import read_adapter
from lora_cli.reading.pieces import PIECE, split
from lora_cli.reading.values import (
    LANES,
    SINGLE_NAN,
    SMALL,
    LaneTest,
    TensorStats,
    integers_test,
    judge,
    numpy_test,
    scan_values,
)
from lora_cli.sources.local import LocalSource
from tests.making import Q_PROJ, Raw, raw, without_numpy, write_adapter

A, B = f"base_model.model.{Q_PROJ}.lora_A.weight", f"base_model.model.{Q_PROJ}.lora_B.weight"
OK = TensorStats(nonfinite=False, zero=False)

TESTS = pytest.mark.parametrize("test", [integers_test, numpy_test])


def scan(directory: Path) -> dict[str, TensorStats]:
    """What the scan says, which is the same with numpy and, of a small file, before anything has imported it."""
    source = LocalSource()
    revision = source.resolve(AdapterRef("file", str(directory)))
    adapter = read_adapter(source, revision, "sql")
    with_numpy = scan_values(source, revision, adapter)
    if sum(tensor.nbytes for tensor in adapter.tensors.values()) <= values.SMALL:
        with without_numpy():
            assert scan_values(source, revision, adapter) == with_numpy
    return with_numpy


def test_a_good_adapter_has_finite_values_that_are_not_all_zero(tmp_path: Path) -> None:
    assert scan(write_adapter(tmp_path)) == {A: OK, B: OK}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 100, 255])
def test_one_nonfinite_value_is_found_wherever_it_is(tmp_path: Path, dtype: str, bad: float, at: int) -> None:
    array = np.ones(256, dtype=np.float32)
    array[at] = bad
    write_adapter(tmp_path, dtype=dtype, tensors={A: raw(array.reshape(4, 64), dtype)})
    assert scan(tmp_path) == {A: TensorStats(nonfinite=True, zero=False), B: OK}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_tensor_of_zeros_is_found_whatever_their_sign(tmp_path: Path, dtype: str, zero: float) -> None:
    write_adapter(tmp_path, dtype=dtype, tensors={B: raw(np.full((64, 4), zero), dtype)})
    assert scan(tmp_path) == {A: OK, B: TensorStats(nonfinite=False, zero=True)}


def test_what_is_found_in_one_piece_of_a_tensor_is_kept_through_the_next(tmp_path: Path) -> None:
    array = np.zeros(PIECE // 2, dtype=np.float32)
    array[0] = np.nan
    write_adapter(tmp_path, tensors={A: array.reshape(4, -1), B: np.abs(array[1:]).reshape(1, -1)})
    assert scan(tmp_path) == {A: TensorStats(nonfinite=True, zero=False), B: TensorStats(nonfinite=False, zero=True)}


def test_an_empty_tensor_is_zero(tmp_path: Path) -> None:
    write_adapter(tmp_path, tensors={A: Raw("F32", (0, 64), b"")})
    assert scan(tmp_path)[A] == TensorStats(nonfinite=False, zero=True)


def test_largest_and_smallest_values_are_finite_and_not_zero(tmp_path: Path) -> None:
    for dtype in (np.float32, np.float16, np.float64):
        info = np.finfo(dtype)
        extremes = np.array([[info.max, info.min, info.tiny, info.smallest_subnormal]], dtype=dtype)
        for column in range(4):
            write_adapter(tmp_path, tensors={A: raw(extremes[:, column : column + 1], dtype.__name__)})
            assert scan(tmp_path)[A] == OK


floats = st.floats(width=32) | st.sampled_from([0.0, -0.0, np.inf, np.nan])


@TESTS
@settings(deadline=None, max_examples=300)
@given(st.lists(floats, min_size=1, max_size=9), st.sampled_from(["float32", "float16", "bfloat16", "float64"]))
def test_any_floats_are_judged_as_numpy_judges_them(test: LaneTest, numbers: list[float], dtype: str) -> None:
    with np.errstate(over="ignore"):
        tensor = raw(np.array(numbers), dtype)
        narrow = np.array(numbers).astype("float32" if dtype == "bfloat16" else dtype)
    if dtype == "bfloat16":
        narrow = (np.frombuffer(tensor.data, "<u2").astype("<u4") << 16).view("<f4")
    nonfinite, zero = judge(tensor.dtype, memoryview(tensor.data), test)
    assert nonfinite == (not np.isfinite(narrow).all())
    assert zero == (not narrow.any())


TORCH_NAMES = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


@TESTS
@pytest.mark.parametrize("dtype", TORCH_NAMES)
def test_every_byte_of_the_eight_bit_floats_is_judged_as_torch_judges_it(test: LaneTest, dtype: str) -> None:
    import torch

    for byte in range(256):
        value = torch.tensor([byte], dtype=torch.uint8).view(getattr(torch, TORCH_NAMES[dtype])).float()
        data = bytes([byte])
        assert judge(dtype, memoryview(data), test) == (not value.isfinite().item(), value.item() == 0), byte


@TESTS
@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BITS) - set(LANES) - set(SINGLE_NAN)))
def test_integers_and_booleans_are_always_finite(test: LaneTest, dtype: str) -> None:
    assert judge(dtype, memoryview(b"\xff" * 8), test) == (False, False)
    assert judge(dtype, memoryview(b"\x00" * 8), test) == (False, True)
    assert judge(dtype, memoryview(b"\x00" * 7 + b"\x80"), test) == (False, False)


@TESTS
def test_four_bit_zeros_can_be_negative(test: LaneTest) -> None:
    assert judge("F4", memoryview(b"\x88\x80\x08\x00"), test) == (False, True)
    assert judge("F4", memoryview(b"\x88\x81"), test) == (False, False)


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
    for tensor, piece in split(tensors_of(*sizes), stream(), "f"):
        assert len(piece) > 0
        read[tensor.name] += bytes(piece)
    assert [len(part) for part in read.values()] == sizes
    assert b"".join(read.values()) == data


def test_a_stream_that_ends_early_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="f: the bytes end 3 bytes before the end of 1"):
        list(split(tensors_of(4, 5), iter([b"123456"]), "f"))


class FillSource:
    """A source of one endless file of ones, in chunks of 1 MiB."""

    def resolve(self, ref: AdapterRef) -> Revision:
        return Revision(ref, "fixed", (RemoteFile("f", None),))

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        assert stop is not None
        for at in range(start, stop, 1 << 20):
            yield b"\x3f" * min(1 << 20, stop - at)


@pytest.mark.parametrize("nbytes", [SMALL // 2, 2 * SMALL])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, nbytes: int) -> None:
    directory = write_adapter(tmp_path)
    adapter = read_adapter(LocalSource(), LocalSource().resolve(AdapterRef("file", str(directory))), "sql")
    big = {"x": TensorInfo("x", "F32", (nbytes // 4,), 0, nbytes, "f")}
    source = FillSource()
    revision = source.resolve(AdapterRef("hf", "a/b"))
    tracemalloc.start()
    try:
        stats = scan_values(source, revision, replace(adapter, tensors=big, weight_files=("f",)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stats == {"x": OK}
    assert peak < 12 * PIECE + (8 << 20)


def test_small_adapters_of_many_sizes_leave_little_in_memory(tmp_path: Path) -> None:
    source = LocalSource()
    tracemalloc.start()
    try:
        for rows in range(1000, 1004):
            write_adapter(tmp_path / str(rows), tensors={A: raw(np.full((rows, 512), 0.5), "float64")})
            revision = source.resolve(AdapterRef("file", str(tmp_path / str(rows))))
            adapter = read_adapter(source, revision, "sql")
            with without_numpy():
                assert scan_values(source, revision, adapter)[A] == OK
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 2 * SMALL


def test_a_large_file_is_scanned_with_numpy_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.ones((4, 64), dtype=np.float32)
    array[3, 63] = np.nan
    write_adapter(tmp_path, tensors={A: array, B: np.zeros((64, 4), dtype=np.float32)})
    small = scan(tmp_path)
    monkeypatch.setattr(values, "SMALL", 0)
    assert (
        scan(tmp_path)
        == small
        == {
            A: TensorStats(nonfinite=True, zero=False),
            B: TensorStats(nonfinite=False, zero=True),
        }
    )
