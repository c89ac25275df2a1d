"""On a CUDA device an adapter comes from memory to its slot in one copy, at the link's speed, and is proved there."""

import time
from collections.abc import Callable

import pytest
import torch

from lora_cli.base.base_model import BaseModule
from lora_cli.warm.base_weights import SyntheticWeights
from lora_cli.warm.proof import prove
from lora_cli.warm.weights import hold
from tests.warm.tiny import BASE, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

CUDA = torch.device("cuda")
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
    for seed, r in enumerate((4, 32, 7)):
        adapter = weights(r=r, seed=seed)
        proof = prove(hold("one", adapter, dtype, pinned=True).on(CUDA), adapter, SyntheticWeights(BASE))
        assert proof.holds, proof.worst


def test_a_hit_in_memory_takes_at_most_twice_what_the_link_does() -> None:
    held = hold("one", weights(r=16, modules=LARGE), torch.bfloat16, pinned=True)
    there = torch.empty_like(held.storage, device="cuda")
    floor_s = median_s(lambda: there.copy_(held.storage, non_blocking=True))
    assert median_s(lambda: held.on(CUDA)) <= 2 * floor_s
