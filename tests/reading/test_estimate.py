"""Bounds on the norm of a tensor, from the leading bytes alone: they hold for any elements, and are told from none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.reading.estimate import SIZES, estimate
from lora_cli.reading.magnitude import measure
from lora_cli.reading.values import LANES, integers_test
from tests.reading.test_magnitude import true_values


@pytest.mark.parametrize("dtype", sorted(SIZES))
@given(data=st.data())
def test_any_elements_lie_between_their_bounds(dtype: str, data: st.DataObject) -> None:
    raw = data.draw(st.binary(max_size=40).map(lambda raw: raw[: len(raw) // SIZES[dtype] * SIZES[dtype]]))
    piece = memoryview(raw)
    found, true = estimate(dtype, piece), true_values(dtype, raw)
    if found is None:
        # NaN or infinity, zeros, or so small or (of a byte whose largest values are infinite) large that they may be.
        nonfinite, zero = integers_test(piece, LANES[dtype])
        tiny, large = (2.0**-14, 65504.0) if dtype == "F16" else (2.0**-125, 2.0**127)
        assert nonfinite or zero or np.abs(true).max(initial=0.0) < tiny or np.abs(true).max() >= large
        return
    assert np.isfinite(true).all()
    norm = math.hypot(*true)
    assert found.least <= norm <= found.most
    assert np.abs(true).max() <= found.most
    assert (found.norm, found.largest) == (measured := measure(dtype, piece, numpy=False)).exact[::-1]
    assert measured.norm == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("dtype", sorted(SIZES))
def test_usual_elements_are_bounded_closely_and_told_from_unusual_ones(dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal(5000).astype("<f4") * np.float32(0.02)
    raw = {"F32": values.tobytes(), "F16": values.astype("<f2").tobytes()}.get(dtype) or values.view("<u4").astype(
        "<u8"
    ).__rshift__(16).astype("<u2").tobytes()
    found = estimate(dtype, memoryview(raw))
    assert found is not None
    assert found.most <= 4.1 * found.least
    size = SIZES[dtype]
    for top in (0x7F, 0xFF):
        odd = bytearray(raw)
        odd[7 * size : 8 * size] = bytes([0xFF] * (size - 1) + [top])
        assert estimate(dtype, memoryview(odd)) is None
    assert estimate(dtype, memoryview(bytes(len(raw)))) is None
    assert estimate(dtype, memoryview((b"\0" * (size - 1) + b"\x80") * 9)) is None


def test_the_exact_norm_of_a_long_piece_is_measured_step_by_step() -> None:
    raw = np.full(200_000, 0.5, dtype="<f4").tobytes()
    found = estimate("F32", memoryview(raw))
    assert found is not None
    assert found.norm == pytest.approx(0.5 * math.sqrt(200_000), rel=1e-12)
    assert 0.5 <= found.largest <= found.norm
