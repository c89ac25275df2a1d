"""Small seeded weights and a base for the tests of forward and proof."""

from collections.abc import Mapping

import torch

from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.warm.weights import LoadedAdapter, ModuleWeights, hold

LINEAR, CONV, EMBEDDING = "layers.0.proj", "layers.0.c_attn", "embed_tokens"

MODULES: Mapping[str, BaseModule] = {
    LINEAR: BaseModule(24, 40),
    CONV: BaseModule(16, 48, kind="conv1d", bias=True),
    EMBEDDING: BaseModule(100, 24, kind="embedding"),
}

BASE = BaseModel("tiny", "none", MODULES, num_layers=1, hidden_size=24, vocab_size=100)

Weights = dict[str, ModuleWeights]


def weights(
    *,
    r: int = 4,
    scaling: float = 2.0,
    seed: int = 0,
    size: float = 1.0,
    modules: Mapping[str, BaseModule] = MODULES,
) -> Weights:
    """Random factors on ``modules``; ``size`` makes the whole effect as small as a test likes."""
    generator = torch.Generator().manual_seed(seed)

    def factor(rows: int, columns: int, scale: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * scale

    return {
        path: ModuleWeights(
            factor(r, module.d_in, module.d_in**-0.5),
            factor(module.d_out, r, size * r**-0.5),
            scaling,
            module.kind == "embedding",
        )
        for path, module in modules.items()
    }


def put(adapter: Weights, dtype: torch.dtype = torch.float32) -> LoadedAdapter:
    """The adapter in memory."""
    return hold("one", adapter, dtype)
