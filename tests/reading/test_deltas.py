"""The update of a module in numbers, beside the dense product that is never made."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.reading.deltas import Update, compare_updates, distance, norm, singular_values


def update(seed: int, shape: tuple[int, int, int], scaling: float, kind: str = "f4") -> Update:
    random, (d_out, d_in, r) = np.random.default_rng(seed), shape
    return Update(random.normal(size=(r, d_in)).astype(kind), random.normal(size=(d_out, r)).astype(kind), scaling)


def dense(one: Update) -> Any:
    return one.scaling * (one.b.astype("f8") @ one.a.astype("f8"))


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 48))


@given(st.integers(0, 2**32 - 1), SHAPES, st.floats(-8, 8))
def test_norm_and_singular_values_are_those_of_the_product(seed: int, shape: Any, scaling: float) -> None:
    one = update(seed, shape, scaling)
    values = np.linalg.svd(dense(one), compute_uv=False)
    size = float(np.linalg.norm(dense(one)))
    ours = singular_values(one)
    assert norm(one) == pytest.approx(size, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(ours, values[: len(ours)], atol=1e-5 * max(size, 1e-9))
    assert (values[len(ours) :] <= 1e-9 * max(size, 1)).all()


@given(st.integers(0, 2**32 - 2), SHAPES, st.integers(1, 48), st.floats(0.1, 4))
def test_inner_product_and_distance_are_those_of_the_products(seed: int, shape: Any, r: int, scaling: float) -> None:
    one, other = update(seed, shape, 1.5), update(seed + 1, (shape[0], shape[1], r), scaling)
    assert compare_updates(one, other)[0].inner == pytest.approx(
        float((dense(one) * dense(other)).sum()), rel=1e-4, abs=1e-3
    )
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
    assert compare_updates(one, turned)[0].inner == pytest.approx(norm(one) ** 2)


@pytest.mark.parametrize("spoil", ["a zero column", "two alike", "nearly alike", "tiny columns", "of rank 1"])
def test_factors_of_any_condition_have_the_singular_values_of_the_product(spoil: str) -> None:
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
    values = np.linalg.svd(dense(one), compute_uv=False)
    ours = singular_values(one)
    np.testing.assert_allclose(ours, values[: len(ours)], atol=1e-13 * values[0])


def test_an_update_of_zeros_has_no_size() -> None:
    one = Update(np.zeros((4, 6), "f4"), np.ones((5, 4), "f4"), 2.0)
    assert norm(one) == 0
    assert not singular_values(one).any()


@given(st.integers(0, 2**32 - 2), SHAPES, st.integers(1, 48), st.floats(0.1, 4))
def test_two_updates_lie_to_each_other_as_the_products_do(seed: int, shape: Any, r: int, scaling: float) -> None:
    one, other = update(seed, shape, 1.5), update(seed + 1, (shape[0], shape[1], r), -scaling)
    x, y, (found, found_spread, _) = dense(one), dense(other), compare_updates(one, other)
    size = float(np.linalg.norm(x))
    assert found.norm == pytest.approx(size, rel=1e-6)
    assert found.other_norm == pytest.approx(float(np.linalg.norm(y)), rel=1e-6)
    assert found.inner == pytest.approx(float((x * y).sum()), abs=1e-6 * size * max(1.0, found.other_norm))
    assert found.factor == pytest.approx(found.inner / size**2)
    assert found.distance == pytest.approx(float(np.linalg.norm(y - x)), rel=1e-6)
    assert found.residual == pytest.approx(float(np.linalg.norm(y - found.factor * x)), rel=1e-5, abs=1e-9 * size)
    spread = np.linalg.norm(one.a, axis=1) * np.linalg.norm(one.b, axis=0)
    assert found_spread == pytest.approx(1.5 * float(np.linalg.norm(spread)), rel=1e-5)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_difference_far_below_the_updates_is_exact(order: Any) -> None:
    one = update(3, (500, 700, 16), 2.0, "f8")
    nudged = Update(np.asarray(one.a, order=order), np.asarray(one.b * (1 + 1e-9), order=order), one.scaling)
    found, _, _ = compare_updates(one, nudged)
    assert found.distance == pytest.approx(1e-9 * found.norm, rel=1e-3)
    assert found.residual <= 1e-12 * found.norm
    assert compare_updates(one, one)[0].distance <= 1e-12 * found.norm
    assert distance(one, one) <= 1e-12 * found.norm


def test_what_is_not_finite_has_no_values_and_warns_of_nothing() -> None:
    one, other = update(1, (6, 5, 2), 1.0), update(2, (6, 5, 2), 1.0)
    one.a[0, 0] = np.inf
    assert np.isnan(singular_values(one)).all()
    assert np.isnan(norm(one))
    assert np.isnan(compare_updates(one, other)[0].distance)
    assert np.isnan(distance(one, other))
    assert np.isnan(compare_updates(other, one)[0].norm) or np.isnan(compare_updates(other, one)[0].other_norm)


def test_a_rank_far_above_the_dimensions_takes_no_square_of_it() -> None:
    one = update(8, (3, 2, 1_000_000), 1.0)
    np.testing.assert_allclose(singular_values(one), np.linalg.svd(dense(one), compute_uv=False)[:2], rtol=1e-9)


def test_squares_that_leave_the_range_of_a_float_do_not_count() -> None:
    one = Update(np.full((2, 3), 1e-200), np.full((4, 2), 1e180), 1.0)
    assert norm(one) == pytest.approx(2 * np.sqrt(12) * 1e-20)
