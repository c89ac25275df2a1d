"""A slot holds one adapter, padded with zeros, and nothing of the one before."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.base.base_model import BaseModule
from lora_cli.errors import MachineError, Refused
from lora_cli.runtime.adapter_weights import LoraWeights
from lora_cli.runtime.lora_slots import HUGE, Slots, rank_classes, storage_bytes
from tests.runtime.tiny import CONV, EMBEDDING, LINEAR, MODULES, put, slots, weights


def contents(held: Slots, slot: int) -> list[torch.Tensor]:
    """All factors at the slot's rank class, and the scalings."""
    return [part for path, stack in held.stacks.items() for part in (*held.at(slot, path), stack.scaling[slot])]


def test_an_adapter_lies_in_its_slot_with_zeros_above_its_rank() -> None:
    held, adapter = slots(max_lora_rank=8), weights(r=3)
    slot = put(held, adapter)
    for path, module in adapter.modules.items():
        a, b = held.at(slot, path)
        assert (len(a), b.shape[1]) == (8, 8)
        assert torch.equal(a[:3], module.a)
        assert torch.equal(b[:, :3], module.b)
        assert float(held.stacks[path].scaling[slot]) == module.scaling
        assert not a[3:].any()
        assert not b[:, 3:].any()


def test_slot_0_is_the_bases_and_given_to_nobody() -> None:
    held = slots()
    taken = [put(held, weights(f"adapter {seed}", seed=seed)) for seed in range(3)]
    assert taken == [1, 2, 3]
    assert held.used() == (1, 2, 3)
    assert held.on(0) == ()
    assert not any(stack.scaling[0] for stack in held.stacks.values())


def test_a_cleared_slot_is_nobodys_and_adds_nothing() -> None:
    held = slots()
    slot = put(held, weights())
    held.clear(slot)
    assert (held.used(), held.on(slot)) == ((), ())
    assert not any(stack.scaling[slot] for stack in held.stacks.values())


@given(
    st.lists(st.tuples(st.integers(1, 32), st.sampled_from([(LINEAR,), (CONV, EMBEDDING), tuple(MODULES)])), max_size=5)
)
def test_whoever_was_there_before_an_adapter_lies_as_in_a_fresh_slot(before: list[tuple[int, tuple[str, ...]]]) -> None:
    reused, fresh = (slots(max_loras=1, max_lora_rank=32) for _ in range(2))
    for rank, paths in before:
        left = weights("left", r=rank, scaling=float("nan"), modules={path: MODULES[path] for path in paths})
        for module in left.modules.values():
            module.a[-1] = float("nan")
            module.b[:, -1] = float("inf")
        reused.clear(put(reused, left))
    for r in (2, 20):
        one = weights("one", r=r, seed=5, modules={LINEAR: MODULES[LINEAR]})
        slot, same = put(reused, one), put(fresh, one)
        assert all(map(torch.equal, contents(reused, slot), contents(fresh, same)))
        reused.clear(slot)
        fresh.clear(same)


@given(st.lists(st.tuples(st.integers(1, 32), st.booleans()), max_size=6))
def test_a_copy_from_memory_is_what_was_read_there_whoever_left_the_slot(steps: list[tuple[int, bool]]) -> None:
    memory, device = (Slots(MODULES, places, 32, one_piece=True) for places in (8, 1))
    for seed, (rank, partial) in enumerate(steps):
        modules = {LINEAR: MODULES[LINEAR]} if partial else MODULES
        place = put(memory, weights(r=rank, seed=seed, modules=modules))
        slot = device.put_from(memory, place)
        assert device.on(slot) == memory.on(place)
        assert all(map(torch.equal, contents(memory, place), contents(device, slot)))
        device.clear(slot)


@pytest.mark.parametrize(
    ("largest", "classes"), [(1, (1,)), (8, (8,)), (16, (16,)), (32, (8, 32)), (64, (16, 64)), (256, (16, 64, 256))]
)
def test_few_ranks_are_laid_out_each_a_quarter_of_the_next(largest: int, classes: tuple[int, ...]) -> None:
    assert rank_classes(largest) == classes


def test_adapters_of_one_rank_class_stand_side_by_side() -> None:
    held = slots(max_loras=6, max_lora_rank=32)
    ranks = [4, 32, 8, 9, 3, 20]
    taken = [put(held, weights(str(rank), r=rank)) for rank in ranks]
    assert taken == [1, 7, 2, 8, 3, 9]
    assert [held.rank_class(slot) for slot in taken] == [8, 32, 8, 32, 8, 32]


def test_many_threads_that_put_at_once_have_a_slot_each() -> None:
    held = slots(max_loras=16)
    adapters = [weights(str(seed), seed=seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda one: put(held, one), adapters))
    assert sorted(taken) == list(range(1, 17))
    for slot, adapter in zip(taken, adapters, strict=True):
        assert torch.equal(held.at(slot, LINEAR)[0][:4], adapter.modules[LINEAR].a)


def test_reloading_after_an_eviction_gives_the_same_bits() -> None:
    held, adapter = slots(max_loras=1, dtype=torch.bfloat16), weights(r=5)
    before = [part.clone() for part in contents(held, put(held, adapter))]
    held.clear(1)
    put(held, weights("other", r=8, seed=9))
    held.clear(1)
    after = contents(held, put(held, adapter))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("one_piece", [False, True])
def test_each_layout_keeps_together_what_it_is_for(one_piece: bool) -> None:
    held = Slots(MODULES, 3, 32, one_piece=one_piece)
    width = sum(module.d_in + module.d_out for module in MODULES.values())
    assert held.slot_bytes == 32 * 4 * width
    assert held.storage.nbytes == storage_bytes(MODULES, 3, 32, torch.float32) == 3 * (32 + 8) * 4 * width
    for factors in held.stacks[LINEAR].factors.values():
        assert factors.a.is_contiguous() is factors.b.is_contiguous() is not one_piece
    slot = put(held, weights(r=20))
    ends = [part.data_ptr() + part.nbytes for path in MODULES for part in held.at(slot, path)]
    starts = [part.data_ptr() for path in MODULES for part in held.at(slot, path)]
    assert (ends[:-1] == starts[1:]) is one_piece


@pytest.mark.parametrize("one_piece", [False, True])
def test_no_two_slots_share_a_byte(one_piece: bool) -> None:
    held = Slots(MODULES, 3, 32, one_piece=one_piece)
    for slot in range(1, 7):
        for path in MODULES:
            for factor in held.at(slot, path):
                factor.add_(slot)
    assert torch.equal(held.storage, held.storage.round())
    for slot in range(1, 7):
        assert all(bool((factor == slot).all()) for path in MODULES for factor in held.at(slot, path))
    assert bool((held.storage > 0).all())


def test_a_rank_above_the_largest_is_refused_and_the_hint_says_what_would_take_it() -> None:
    with pytest.raises(Refused, match="has rank 16, above the maximum rank of a slot") as refused:
        put(slots(max_lora_rank=8), weights(r=16))
    assert refused.value.hint == "--max-lora-rank 16"


@pytest.mark.parametrize(
    ("path", "shape", "said"),
    [
        (LINEAR, BaseModule(25, 40), "maps 25 to 40, but the base's maps 24 to 40"),
        (CONV, BaseModule(16, 47, kind="conv1d"), "maps 16 to 47, but the base's maps 16 to 48"),
        (EMBEDDING, BaseModule(100, 24), r"maps 100 to 24, but the base's maps 100 to 24 \(embedding\)"),
        ("elsewhere", BaseModule(1, 1), "do not include elsewhere"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_before_anything_is_written(
    path: str, shape: BaseModule, said: str
) -> None:
    held = slots()
    with pytest.raises(Refused, match=said):
        put(held, weights(modules={**MODULES, path: shape}))
    assert held.used() == ()
    assert not any(part.any() for part in contents(held, 1))


def test_a_full_set_of_slots_refuses() -> None:
    held = slots(max_loras=1)
    put(held, weights())
    with pytest.raises(MachineError, match="all 1 slots are in use"):
        put(held, weights("two"))


def test_an_adapter_may_be_on_fewer_modules_than_the_slots_have() -> None:
    held = slots()
    everything = weights()
    partial: LoraWeights = dataclasses.replace(everything, modules={CONV: everything.modules[CONV]})
    slot = put(held, partial)
    assert held.at(slot, CONV)[0].any()
    assert not held.at(slot, LINEAR)[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_storage_is_zeros_on_pages_of_its_own_and_holds_what_is_put(dtype: torch.dtype) -> None:
    modules = {"proj": BaseModule(4096, 4096)}
    held, adapter = Slots(modules, 2, 64, dtype=dtype), weights(r=64, modules=modules, dtype=dtype)
    assert held.storage.nbytes == storage_bytes(modules, 2, 64, dtype) > HUGE
    assert held.storage.data_ptr() % 4096 == 0
    assert not held.storage.any()
    slot = put(held, adapter)
    assert torch.equal(held.at(slot, "proj")[0], adapter.modules["proj"].a)
    assert torch.equal(held.at(slot, "proj")[1], adapter.modules["proj"].b)
