"""The update of a module in numbers, beside the dense product that is never made."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.deltas import Update, distance, norm


def update(seed: int, shape: tuple[int, int, int], scaling: float, kind: str = "f4") -> Update:
    random, (d_out, d_in, r) = np.random.default_rng(seed), shape
    return Update(random.normal(size=(r, d_in)).astype(kind), random.normal(size=(d_out, r)).astype(kind), scaling)


def dense(one: Update) -> Any:
    return one.scaling * (one.b.astype("f8") @ one.a.astype("f8"))


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 48))


@given(st.integers(0, 2**32 - 1), SHAPES, st.floats(-8, 8))
def test_a_norm_is_that_of_the_product(seed: int, shape: Any, scaling: float) -> None:
    one = update(seed, shape, scaling)
    assert norm(one) == pytest.approx(float(np.linalg.norm(dense(one))), rel=1e-5, abs=1e-6)


@given(st.integers(0, 2**32 - 2), SHAPES, st.integers(1, 48), st.floats(0.1, 4))
def test_a_distance_is_that_of_the_products(seed: int, shape: Any, r: int, scaling: float) -> None:
    one, other = update(seed, shape, 1.5), update(seed + 1, (shape[0], shape[1], r), scaling)
    assert distance(one, other) == pytest.approx(float(np.linalg.norm(dense(one) - dense(other))), rel=1e-5)


def test_what_is_nearly_equal_is_told_apart_to_the_last_digits() -> None:
    one = update(3, (500, 700, 16), 2.0, "f8")
    nudged = Update(one.a, one.b * (1 + 1e-9), one.scaling)
    assert distance(one, one) <= 1e-12 * norm(one)
    assert distance(one, nudged) == pytest.approx(1e-9 * norm(one), rel=1e-3)


def test_another_basis_of_the_same_update_is_the_same_update() -> None:
    one = update(4, (60, 50, 8), 0.5, "f8")
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(8, 8)))[0]
    turned = Update(turn.T @ one.a, 4 * one.b @ turn, one.scaling / 4)
    assert distance(one, turned) <= 1e-12 * norm(one)


@pytest.mark.parametrize("spoil", ["a zero column", "two alike", "nearly alike", "tiny columns", "of rank 1"])
def test_factors_of_any_condition_have_the_norm_of_the_product(spoil: str) -> None:
    one = update(6, (300, 200, 12), 0.7, "f8")
    if spoil == "a zero column":
        one.b[:, 3] = 0
    elif spoil == "two alike":
        one.b[:, 5] = one.b[:, 4]
    elif spoil == "nearly alike":
        one.a[5] = one.a[4] * (1 + 1e-9)
    elif spoil == "tiny columns":
        one.b[:, 2:] *= 1e-12
    else:
        one.a[:] = one.a[0]
    assert norm(one) == pytest.approx(float(np.linalg.norm(dense(one))), rel=1e-12)


def test_an_update_of_zeros_has_no_size() -> None:
    one = Update(np.zeros((4, 6), "f4"), np.ones((5, 4), "f4"), 2.0)
    assert norm(one) == 0


def test_what_is_not_finite_has_no_values_and_warns_of_nothing() -> None:
    one, other = update(1, (6, 5, 2), 1.0), update(2, (6, 5, 2), 1.0)
    one.a[0, 0] = np.inf
    assert np.isnan(norm(one))
    assert np.isnan(distance(one, other))


def test_squares_that_leave_the_range_of_a_float_do_not_count() -> None:
    one = Update(np.full((2, 3), 1e-200), np.full((4, 2), 1e180), 1.0)
    assert norm(one) == pytest.approx(2 * np.sqrt(12) * 1e-20)
