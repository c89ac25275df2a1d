"""The batched forward: every token its own slot, and the simplest loop agrees."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.runtime.lora_forward import add_lora, bind, route
from lora_cli.runtime.lora_slots import Slots
from tests.runtime.tiny import CONV, EMBEDDING, LINEAR, MODULES, inputs, put, slots, token_by_token, weights

PATHS = (LINEAR, CONV, EMBEDDING)


def composed(path: str, slot_of_token: list[int], base: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Slots 1, 2, 3 and 5 hold adapters of rank 2, 5, 8 and 20, in two rank classes, with scalings of their own."""
    held = slots(max_loras=4, max_lora_rank=32)
    for slot, adapter in ADAPTERS.items():
        assert put(held, adapter) == slot
    return added(base.clone(), x, path, slot_of_token, held)


def added(output: torch.Tensor, x: torch.Tensor, path: str, slot_of_token: list[int], held: Slots) -> torch.Tensor:
    return add_lora(output, x, bind(held.stacks[path], route(slot_of_token, held)))


RANKS = {1: 2, 2: 5, 3: 8, 5: 20}
ADAPTERS = {slot: weights(f"a{slot}", r=r, scaling=0.5 * slot, seed=slot) for slot, r in RANKS.items()}


@given(st.sampled_from(PATHS), st.lists(st.sampled_from([0, *RANKS]), min_size=1, max_size=24))
def test_any_mix_of_slots_equals_one_token_after_the_other(path: str, slot_of_token: list[int]) -> None:
    x = inputs(path, len(slot_of_token))
    base = torch.randn(len(x), MODULES[path].d_out, generator=torch.Generator().manual_seed(2))
    result = composed(path, slot_of_token, base, x)
    oracle = base.double() + token_by_token(x, slot_of_token, ADAPTERS, path)
    assert torch.allclose(result.double(), oracle, rtol=0, atol=2e-6 * float(oracle.abs().max()))


@given(st.sampled_from(PATHS), st.permutations(range(10)))
def test_permuting_the_tokens_permutes_the_outputs(path: str, order: list[int]) -> None:
    slot_of_token = [0, 1, 1, 2, 3, 5, 3, 0, 2, 1]
    x = inputs(path, 10)
    base = torch.zeros(10, MODULES[path].d_out)
    straight = composed(path, slot_of_token, base, x)
    permuted = composed(path, [slot_of_token[i] for i in order], base, x[order])
    assert torch.allclose(permuted, straight[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tokens_of_the_base_keep_their_bits(path: str, dtype: torch.dtype) -> None:
    base = torch.randn(4, MODULES[path].d_out).to(dtype)
    base[0, 0] = -0.0
    result = composed(path, [0, 1, 0, 2], base, inputs(path, 4, dtype=dtype))
    assert torch.equal(result[::2].view(torch.uint8), base[::2].view(torch.uint8))
    assert not torch.equal(result[1], base[1])


@pytest.mark.parametrize("path", PATHS)
def test_a_batch_of_base_tokens_is_returned_as_it_is(path: str) -> None:
    base = torch.randn(4, MODULES[path].d_out)
    assert torch.equal(composed(path, [0, 0, 0, 0], base, inputs(path, 4)), base)


@pytest.mark.parametrize("path", PATHS)
def test_no_nan_of_one_adapter_reaches_another_or_the_base(path: str) -> None:
    held = slots(max_lora_rank=8)
    poisoned = weights("poisoned", r=8)
    for module in poisoned.modules.values():
        module.a[:] = float("nan")
        module.b[:] = float("inf")
    bad, good = put(held, poisoned), put(held, weights("good", r=2))
    for slot_of_token in ([good, bad, 0, bad, good, bad], [0, bad, bad, bad, good, good], [0, bad, good, 0, bad, good]):
        x = inputs(path, 6)
        if not held.stacks[path].embedding:
            x[torch.tensor(slot_of_token) == bad] = float("nan")
        result = added(torch.ones(6, MODULES[path].d_out), x, path, slot_of_token, held)
        finite = torch.isfinite(result).all(1)
        assert finite.tolist() == [slot != bad for slot in slot_of_token]
        assert torch.equal(result[slot_of_token.index(0)], torch.ones(MODULES[path].d_out))


def test_a_module_that_an_adapter_is_not_on_is_left_to_the_base() -> None:
    held = slots()
    slot = put(held, weights(modules={CONV: MODULES[CONV]}))
    base = torch.randn(3, MODULES[LINEAR].d_out)
    result = added(base.clone(), inputs(LINEAR, 3), LINEAR, [slot] * 3, held)
    assert torch.equal(result, base)


@given(st.lists(st.sampled_from([0, *RANKS]), max_size=40), st.integers(1, 3))
def test_every_token_with_an_adapter_is_in_one_segment_that_gives_it_its_slot(rows: list[int], tokens: int) -> None:
    held = slots(max_loras=4, max_lora_rank=32)
    for adapter in ADAPTERS.values():
        put(held, adapter)
    found = [0] * len(rows) * tokens
    for segment in route(rows, held, tokens):
        for token in range(segment.start, segment.stop):
            assert not found[token]
            found[token] = segment.slot + (token - segment.start) // segment.tokens
            assert held.rank_class(found[token]) == segment.rank_class
    assert found == [slot for slot in rows for _ in range(tokens)]


def test_a_batch_sorted_by_slot_takes_one_product_for_each_rank_class() -> None:
    held = slots(max_loras=4, max_lora_rank=32)
    for adapter in ADAPTERS.values():
        put(held, adapter)
    assert [(one.slot, one.count, one.rank_class) for one in route([0, 1, 2, 3, 5], held, 7)] == [(1, 3, 8), (5, 1, 32)]
    assert [(one.slot, one.count, one.tokens) for one in route([1, 1, 2, 2, 3], held)] == [(1, 2, 2), (3, 1, 1)]
