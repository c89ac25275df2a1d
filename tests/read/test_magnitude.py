"""The largest value and the norm of a tensor, by both ways of measuring, beside numpy in double precision."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.read.magnitude import MEASURED, NOTHING, UNREMARKABLE, Magnitude, measure
from tests.making import NAMES, raw

DTYPES = {name: code for name, code in NAMES.items() if code in MEASURED}
FLOATS = st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False)


def true_values(dtype: str, data: bytes) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype("f8")
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype("f8")


@pytest.mark.parametrize("numpy", [False, True])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
@given(values=st.lists(FLOATS, max_size=40))
def test_it_is_what_double_precision_makes_of_the_same_elements(numpy: bool, dtype: str, values: list[float]) -> None:
    with np.errstate(over="ignore"):
        one = raw(np.array(values, dtype=np.float64), dtype)
    true = true_values(one.dtype, one.data)
    if not np.isfinite(true).all():
        return

    found = measure(one.dtype, memoryview(one.data), numpy=numpy)

    largest = float(np.abs(true).max(initial=0.0))
    assert found.largest == largest or largest <= found.largest == found.norm <= UNREMARKABLE
    exact = largest * math.sqrt(float(((true / largest) ** 2).sum())) if largest else 0.0
    assert found.norm == pytest.approx(exact, rel=1e-4)


def test_two_pieces_are_measured_like_the_whole() -> None:
    one, other = Magnitude(3.0, 5.0), Magnitude(2.0, 12.0)

    assert one.with_(other) == Magnitude(3.0, 13.0)
    assert one.with_(NOTHING) == one
