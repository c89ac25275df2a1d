"""The scan by numpy and ml_dtypes finds what the scans by bytes and lanes find, for tensors of every dtype."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.core.adapter import Adapter
from lora_cli.core.reference import AdapterRef
from lora_cli.core.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.reading import arrays, tensor_values, values
from lora_cli.reading.adapter import read_adapter
from lora_cli.reading.magnitude import UNREMARKABLE
from lora_cli.reading.pieces import PIECE
from lora_cli.sources.local import LocalSource
from tests.making import without_numpy, write_adapter

EXAMPLES = settings(deadline=None, max_examples=200)
SIGN, TOP = 0x80, 0x7F
SPECIAL: dict[str, list[int]] = {
    "F64": [0, 1, 1 << 51, 0x7FF0 << 48, (0x7FF0 << 48) - 1, 0x7FF8 << 48, 0x7FF0 << 48 | 1, 0x3FF0 << 48, 0x5FF << 52],
    "F32": [0, 1, 1 << 22, 0x7F80_0000, 0x7F7F_FFFF, 0x7FC0_0000, 0x7F80_0001, 0x3F80_0000, 0x6000_0000],
    "F16": [0, 1, 0x3FF, 0x400, 0x7C00, 0x7BFF, 0x7E00, 0x7C01, 0x3C00],
    "BF16": [0, 1, 0x7F, 0x80, 0x7F80, 0x7F7F, 0x7FC0, 0x7F81, 0x3F80, 0x6000],
}
"""Zero, denormals, infinity, the largest, NaN, one, and what overflows when it is squared; all without the sign."""


@st.composite
def elements(draw: st.DrawFn, dtype: str) -> bytes:
    """Whole elements, of which none, few or all are unusual."""
    size = max(1, DTYPE_BITS[dtype] // 8) if DTYPE_BITS[dtype] % 8 == 0 else 3
    usual = st.binary(min_size=size, max_size=size)
    if special := SPECIAL.get(dtype, []):
        signs = st.sampled_from([0, 1 << (8 * size - 1)])
        one = st.builds(lambda bits, sign: (bits | sign).to_bytes(size, "little"), st.sampled_from(special), signs)
    else:
        one = st.sampled_from([0, 1, SIGN, TOP, SIGN | TOP, 0x78, 0x7B, 0x7C, 0x7E, 0x08, 0x88]).map(
            lambda byte: bytes([byte]) * size
        )
    zero = st.sampled_from([bytes(size), bytes(size - 1) + b"\x80"])
    drawn = draw(st.lists(draw(st.sampled_from([usual, one, zero, usual | one])), max_size=12))
    return b"".join(drawn)


class Bytes:
    """A source of one file in memory, which it gives in chunks of an odd size."""

    def __init__(self, data: bytes, chunk: int) -> None:
        self.data, self.chunk = data, chunk

    def resolve(self, ref: AdapterRef) -> Revision:
        return Revision(ref, "fixed", (RemoteFile("f", len(self.data)),))

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        assert stop is not None
        for at in range(start, stop, self.chunk):
            yield self.data[at : min(stop, at + self.chunk)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    source, folder = LocalSource(), write_adapter(tmp_path_factory.mktemp("adapter"))
    return read_adapter(source, source.resolve(AdapterRef("file", str(folder))), "a")


def scans_agree(adapter: Adapter, dtype: str, parts: list[bytes], chunk: int) -> None:
    tensors, end = {}, 0
    for number, part in enumerate(parts):
        shape = (len(part) * 8 // DTYPE_BITS[dtype],)
        tensors[str(number)] = TensorInfo(str(number), dtype, shape, end, end := end + len(part), "f")
    source = Bytes(b"".join(parts), chunk)
    revision = source.resolve(AdapterRef("hf", "a/b"))
    object.__setattr__(adapter, "tensors", tensors)
    object.__setattr__(adapter, "weight_files", ("f",))

    new = tensor_values.scan_values(source, revision, adapter)
    old = [values.scan_values(source, revision, adapter)]
    with without_numpy():
        old.append(values.scan_values(source, revision, adapter))

    for found in old:
        assert found.keys() == new.keys()
        for name, one in found.items():
            assert (one.nonfinite, one.zero) == (new[name].nonfinite, new[name].zero)
            ours = new[name].magnitude
            assert (one.magnitude is None) == (ours is None)
            if one.magnitude is None or ours is None:
                continue
            was = one.magnitude.exact
            assert was.norm == pytest.approx(ours.norm, rel=1e-4, abs=1e-300)
            # The old scan let a small norm stand in for the largest value.
            assert was.largest == ours.largest or ours.largest <= was.largest * (1 + 1e-6) <= UNREMARKABLE * (1 + 1e-5)


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
@EXAMPLES
@given(data=st.data())
def test_small_tensors_are_judged_alike(adapter: Adapter, dtype: str, data: st.DataObject) -> None:
    parts = data.draw(st.lists(elements(dtype), max_size=4))
    scans_agree(adapter, dtype, parts, data.draw(st.integers(1, 40)))


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_tensors_of_several_pieces_are_judged_alike(adapter: Adapter, dtype: str, data: st.DataObject) -> None:
    first, second = data.draw(elements(dtype)), data.draw(elements(dtype))
    size = math.lcm(8, DTYPE_BITS[dtype]) // 8
    long = first * (1 + PIECE // max(1, len(first))) + second
    scans_agree(adapter, dtype, [second, long[: len(long) // size * size], first], 100_003)


@pytest.mark.parametrize("dtype", sorted(tensor_values.NUMPY))
@EXAMPLES
@given(data=st.data())
def test_bits_are_decoded_alike(dtype: str, data: st.DataObject) -> None:
    bits = np.frombuffer(data.draw(elements(dtype)), f"<u{DTYPE_BITS[dtype] // 8}")
    with np.errstate(all="ignore"):
        was, now = arrays.numbers(bits, dtype), tensor_values.decode(bits, dtype)
    assert (was.dtype, was.tobytes()) == (now.dtype, now.tobytes())


@pytest.mark.parametrize("dtype", ["BF16", "F16", *sorted(arrays.F8)])
def test_every_pattern_is_decoded_alike(dtype: str) -> None:
    size = DTYPE_BITS[dtype] // 8
    bits = np.arange(256**size, dtype=f"<u{size}")
    with np.errstate(all="ignore"):
        assert arrays.numbers(bits, dtype).tobytes() == tensor_values.decode(bits, dtype).tobytes()


@pytest.mark.parametrize("wide", ["F32", "F64"])
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@EXAMPLES
@given(data=st.data())
def test_values_are_encoded_alike(dtype: str, wide: str, data: st.DataObject) -> None:
    with np.errstate(all="ignore"):
        numbers = arrays.numbers(np.frombuffer(data.draw(elements(wide)), f"<u{DTYPE_BITS[wide] // 8}"), wide)
        was, now = arrays.rounded(numbers, dtype), tensor_values.encode(numbers, dtype)
    finite = ~np.isnan(numbers)
    assert was[finite].tobytes() == now[finite].tobytes()
    assert np.isnan(tensor_values.decode(now[~finite], dtype)).all()  # of which the new one keeps the sign
