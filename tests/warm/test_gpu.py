"""On a CUDA device an adapter comes from memory to its slot in one copy, at the link's speed, and is proved there."""

import time
from collections.abc import Callable

import pytest
import torch

from lora_cli.base.base_model import BaseModule
from lora_cli.runtime.base_weights import SyntheticWeights
from lora_cli.runtime.lora_slots import Slots
from lora_cli.runtime.numerical_proof import prove
from tests.warm.tiny import BASE, MODULES, put, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

LAYER = {"q": (4096, 4096), "k": (4096, 1024), "v": (4096, 1024), "o": (4096, 4096), "up": (4096, 14336)}
LARGE = {f"layers.{layer}.{name}": BaseModule(*shape) for layer in range(32) for name, shape in LAYER.items()}


def median_s(work: Callable[[], object], times: int = 15) -> float:
    seconds = []
    for _ in range(times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[times // 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_in_its_slot_on_the_device_is_proved(dtype: torch.dtype) -> None:
    memory = Slots(MODULES, 4, 32, dtype=dtype, one_piece=True)
    device = Slots(MODULES, 2, 32, dtype=dtype, device="cuda", one_piece=True)
    for seed, r in enumerate((4, 32, 7)):
        adapter = weights(r=r, seed=seed)
        slot = device.put_from(memory, put(memory, adapter))
        proof = prove(device, slot, adapter, SyntheticWeights(BASE))
        assert proof.holds, proof.worst
        device.clear(slot)


def test_a_hit_in_memory_takes_at_most_twice_what_the_link_does() -> None:
    memory = Slots(LARGE, 1, 16, dtype=torch.bfloat16, one_piece=True)
    device = Slots(LARGE, 1, 16, dtype=torch.bfloat16, device="cuda", one_piece=True)
    place = put(memory, weights(r=16, modules=LARGE, dtype=torch.bfloat16))
    there = torch.empty_like(memory.storage, device="cuda")
    floor_s = median_s(lambda: there.copy_(memory.storage, non_blocking=True))
    ours_s = median_s(lambda: device.clear(device.put_from(memory, place)))
    assert ours_s <= 2 * floor_s
