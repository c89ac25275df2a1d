"""A slot holds one adapter, padded with zeros, and nothing of the one before."""

import dataclasses

import pytest
import torch

from lora_cli.core.base_model import BaseModule
from lora_cli.errors import MachineError, Refused
from lora_cli.runtime.slots import Slots
from lora_cli.runtime.weights import LoraWeights
from tests.runtime.tiny import CONV, EMBEDDING, LINEAR, MODULES, slots, weights


def contents(held: Slots, slot: int) -> list[torch.Tensor]:
    return [part for stack in held.stacks.values() for part in (stack.a[slot], stack.b[slot], stack.scaling[slot])]


def test_an_adapter_lies_in_its_slot_with_zeros_above_its_rank() -> None:
    held, adapter = slots(max_lora_rank=8), weights(r=3)
    slot = held.put(adapter)
    for path, module in adapter.modules.items():
        stack = held.stacks[path]
        assert torch.equal(stack.a[slot, :3], module.a)
        assert torch.equal(stack.b[slot, :3], module.b.t())
        assert float(stack.scaling[slot]) == module.scaling
        assert not stack.a[slot, 3:].any()
        assert not stack.b[slot, 3:].any()


def test_slot_0_is_the_base_and_stays_zeros() -> None:
    held = slots()
    taken = [held.put(weights(f"adapter {seed}", seed=seed)) for seed in range(3)]
    assert taken == [1, 2, 3]
    assert held.used() == (1, 2, 3)
    assert not any(part.any() for part in contents(held, 0))


def test_a_cleared_slot_is_zeros_again() -> None:
    held = slots()
    slot = held.put(weights())
    held.clear(slot)
    assert held.used() == ()
    assert not any(part.any() for part in contents(held, slot))


def test_a_small_adapter_after_a_large_one_looks_as_in_a_fresh_slot() -> None:
    reused, fresh = slots(max_loras=1), slots(max_loras=1)
    small = weights("small", r=2, seed=5, modules={LINEAR: MODULES[LINEAR]})
    reused.clear(reused.put(weights("large", r=8, scaling=float("nan"))))
    reused.put(small)
    fresh.put(small)
    for mine, theirs in zip(contents(reused, 1), contents(fresh, 1), strict=True):
        assert torch.equal(mine, theirs)


def test_an_adapter_that_left_a_nan_leaves_none_behind() -> None:
    held = slots(max_loras=1)
    poisoned = weights(r=8)
    for module in poisoned.modules.values():
        module.a[-1] = float("nan")
        module.b[:, -1] = float("inf")
    held.clear(held.put(poisoned))
    assert not any(part.any() for part in contents(held, 1))


def test_reloading_after_an_eviction_gives_the_same_bits() -> None:
    held, adapter = slots(max_loras=1, dtype=torch.bfloat16), weights(r=5)
    before = [part.clone() for part in contents(held, held.put(adapter))]
    held.clear(1)
    held.put(weights("other", r=8, seed=9))
    held.clear(1)
    after = contents(held, held.put(adapter))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_one_adapter_is_one_contiguous_piece() -> None:
    held = slots(max_lora_rank=4)
    linear = held.stacks[LINEAR]
    assert held.slot_bytes == 4 * 4 * sum(module.d_in + module.d_out for module in MODULES.values())
    assert linear.a[1].is_contiguous()
    assert linear.b[1].data_ptr() == linear.a[1].data_ptr() + linear.a[1].nbytes


def test_a_rank_above_the_largest_is_refused_and_the_hint_says_what_would_take_it() -> None:
    with pytest.raises(Refused, match="has rank 16, above the largest that a slot takes") as refused:
        slots(max_lora_rank=8).put(weights(r=16))
    assert refused.value.hint == "--max-lora-rank 16"


@pytest.mark.parametrize(
    ("path", "shape", "said"),
    [
        (LINEAR, BaseModule(25, 40), "maps 25 to 40, but the base's maps 24 to 40"),
        (CONV, BaseModule(16, 47, kind="conv1d"), "maps 16 to 47, but the base's maps 16 to 48"),
        (EMBEDDING, BaseModule(100, 24), r"maps 100 to 24, but the base's maps 100 to 24 \(embedding\)"),
        ("elsewhere", BaseModule(1, 1), "elsewhere has no place"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_before_anything_is_written(
    path: str, shape: BaseModule, said: str
) -> None:
    held = slots()
    with pytest.raises(Refused, match=said):
        held.put(weights(modules={**MODULES, path: shape}))
    assert held.used() == ()
    assert not any(part.any() for part in contents(held, 1))


def test_a_full_set_of_slots_refuses() -> None:
    held = slots(max_loras=1)
    held.put(weights())
    with pytest.raises(MachineError, match="all 1 slots are taken"):
        held.put(weights("two"))


def test_an_adapter_may_be_on_fewer_modules_than_the_slots_have() -> None:
    held = slots()
    everything = weights()
    partial: LoraWeights = dataclasses.replace(everything, modules={CONV: everything.modules[CONV]})
    slot = held.put(partial)
    assert held.stacks[CONV].a[slot].any()
    assert not held.stacks[LINEAR].a[slot].any()
