"""On a CUDA device an adapter comes from memory to its slot, and is proved there."""

import pytest
import torch

from lora_cli.warm.base_weights import SyntheticWeights
from lora_cli.warm.proof import prove
from lora_cli.warm.weights import hold
from tests.warm.tiny import BASE, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_in_its_slot_on_the_device_is_proved(dtype: torch.dtype) -> None:
    for seed, r in enumerate((4, 32, 7)):
        adapter = weights(r=r, seed=seed)
        proof = prove(hold("one", adapter, dtype, pinned=True).on(CUDA), adapter, SyntheticWeights(BASE))
        assert proof.holds, proof.worst
