"""The largest value and the norm of a tensor, by both ways of measuring, beside numpy in double precision."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.reading.magnitude import MEASURED, NOTHING, UNREMARKABLE, Magnitude, measure, usual
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


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@given(raw_bytes=st.binary(max_size=64), scale=st.sampled_from([None, 1e-30, 1e-5, 1.0, 300.0, 1e30]))
def test_one_pass_tells_that_elements_are_usual_only_where_they_are(
    dtype: str, raw_bytes: bytes, scale: float | None
) -> None:
    code = DTYPES[dtype]
    data = raw_bytes[: len(raw_bytes) // 8 * 8]
    if scale is not None:
        with np.errstate(over="ignore"):
            data = raw(np.frombuffer(data, "<u1").astype(np.float64) * scale, dtype).data
    found, true = usual(code, memoryview(data)), true_values(code, data)
    if found is None:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            assert not 2e-6 < float(np.sqrt((true * true).sum())) < 999.0
        return
    assert np.isfinite(true).all()
    assert true.any()
    assert found.norm == pytest.approx(math.hypot(*true), rel=1e-4)
    assert np.abs(true).max() <= found.largest * (1 + 1e-6) <= UNREMARKABLE * (1 + 1e-5)
