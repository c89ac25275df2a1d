"""Recipes of tensors, beside numpy that does the same to arrays."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.adapter.values import decode, encode
from lora_cli.judging.repair import tensor_bits
from lora_cli.repair.draft import TensorRecipe, assembled, copy_of, rows_of, scaled, zeros

Pair = tuple[TensorRecipe, Any]


def tensor(name: str, shape: tuple[int, ...], dtype: str = "F32") -> TensorInfo:
    return TensorInfo(name, dtype, shape, 0, 0, "weights")


class Arrays:
    """Random matrices by name, as the bits of a dtype, and as numbers."""

    def __init__(self, seed: int, dtype: str = "F32") -> None:
        self.random, self.dtype = np.random.default_rng(seed), dtype
        self.bits: dict[str, Any] = {}

    def matrix(self, rows: int, columns: int) -> Pair:
        name = f"t{len(self.bits)}"
        self.bits[name] = encode(self.random.normal(size=(rows, columns)).astype("f4"), self.dtype)
        return copy_of(tensor(name, (rows, columns), self.dtype)), decode(self.bits[name], self.dtype).astype("f8")

    def value(self, made: TensorRecipe) -> Any:
        return decode(tensor_bits(made, self.bits.__getitem__), made.dtype).astype("f8")


def test_what_is_only_copied_is_so_bit_by_bit_whatever_it_holds() -> None:
    bits: Mapping[str, Any] = {"nan": np.array([[0x7FC1, 0xFFFF]], "<u2"), "flat": np.arange(3, dtype="<u8")}
    for name, dtype in (("nan", "BF16"), ("flat", "I64")):
        made = copy_of(tensor(name, bits[name].shape, dtype))
        assert made.untouched == name
        assert tensor_bits(made, bits.__getitem__) is bits[name]
    moved = replace(copy_of(tensor("nan", (1, 2), "BF16")), shape=(2, 3))
    assert tensor_bits(moved, bits.__getitem__).tolist() == [[0x7FC1, 0xFFFF, 0], [0, 0, 0]]


def test_the_first_rows_of_a_matrix_are_these_rows_alone() -> None:
    arrays = Arrays(3)
    made, value = arrays.matrix(5, 3)
    np.testing.assert_array_equal(arrays.value(rows_of(made, 0, 2)), value[:2])


Step = Callable[[Arrays, Pair, Any], Pair]


def pad(arrays: Arrays, one: Pair, draw: Any) -> Pair:
    more = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    made, value = one
    shape = (made.shape[0] + more[0], made.shape[1] + more[1])
    return replace(made, shape=shape), np.pad(value, ((0, more[0]), (0, more[1])))


def times(arrays: Arrays, one: Pair, draw: Any) -> Pair:
    factor = draw(st.sampled_from([0.5, 2.0, -1.5, 3.0]))
    return scaled(one[0], factor), one[1] * factor


def cut(arrays: Arrays, one: Pair, draw: Any) -> Pair:
    start = draw(st.integers(0, one[0].shape[0] - 1))
    stop = draw(st.integers(start + 1, one[0].shape[0]))
    return rows_of(one[0], start, stop), one[1][start:stop]


def below(arrays: Arrays, one: Pair, draw: Any) -> Pair:
    other = arrays.matrix(draw(st.integers(1, 4)), one[0].shape[1])
    height = one[0].shape[0]
    made = assembled([one[0], other[0]], [(0, 0), (height, 0)], (height + other[0].shape[0], one[0].shape[1]))
    return made, np.concatenate((one[1], other[1]))


def beside(arrays: Arrays, one: Pair, draw: Any) -> Pair:
    other = arrays.matrix(draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    height = one[0].shape[0] + other[0].shape[0] + 1
    value = np.zeros((height, one[0].shape[1] + other[0].shape[1]))
    value[: one[0].shape[0], : one[0].shape[1]] = one[1]
    value[one[0].shape[0] : -1, one[0].shape[1] :] = other[1]
    return assembled([one[0], other[0]], [(0, 0), (one[0].shape[0], one[0].shape[1])], value.shape), value


STEPS: list[Step] = [pad, times, cut, below, beside]


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 6), st.integers(1, 6)), st.data())
def test_whatever_is_done_to_a_recipe_is_done_to_its_matrix(seed: int, shape: tuple[int, int], data: Any) -> None:
    arrays = Arrays(seed)
    one = arrays.matrix(*shape)
    for step in data.draw(st.lists(st.sampled_from(STEPS), max_size=6)):
        one = step(arrays, one, data.draw)
    assert one[0].shape == one[1].shape
    assert one[0].nbytes == 4 * one[1].size
    np.testing.assert_allclose(arrays.value(one[0]), one[1], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_scale_is_rounded_once_and_a_power_of_two_not_at_all(dtype: str) -> None:
    arrays = Arrays(1, dtype)
    made, value = arrays.matrix(5, 7)
    np.testing.assert_array_equal(arrays.value(scaled(scaled(made, 8.0), 0.25)), value * 2)
    third = arrays.value(scaled(made, 1 / 3))
    np.testing.assert_array_equal(encode(third.astype("f4"), dtype), encode((value / 3).astype("f4"), dtype))


def test_another_dtype_is_the_nearest_number_of_it() -> None:
    arrays = Arrays(2)
    made, value = arrays.matrix(4, 4)
    np.testing.assert_array_equal(
        tensor_bits(replace(made, dtype="BF16"), arrays.bits.__getitem__), encode(value.astype("f4"), "BF16")
    )
    flat = copy_of(tensor("flat", (3,)))
    arrays.bits["flat"] = encode(np.array([1.0, 1e-8, 3.3], "f4"), "F32")
    assert arrays.value(replace(flat, dtype="F16")).tolist() == [1.0, 0.0, np.float16(3.3)]


def test_zeros_are_zeros() -> None:
    assert tensor_bits(zeros("BF16", (2, 3)), Arrays(3).bits.__getitem__).tolist() == [[0, 0, 0], [0, 0, 0]]
