"""Small seeded weights and bases for the runtime's tests, and the simplest loop that its forward must agree with."""

from collections.abc import Mapping

import torch

from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.runtime.adapter_weights import LoraWeights, ModuleWeights
from lora_cli.runtime.lora_slots import Shape, Slots

LINEAR, CONV, EMBEDDING = "layers.0.proj", "layers.0.c_attn", "embed_tokens"

MODULES: Mapping[str, BaseModule] = {
    LINEAR: BaseModule(24, 40),
    CONV: BaseModule(16, 48, kind="conv1d", bias=True),
    EMBEDDING: BaseModule(100, 24, kind="embedding"),
}

BASE = BaseModel("tiny", "none", MODULES, num_layers=1, hidden_size=24, vocab_size=100)


def weights(
    name: str = "one",
    *,
    r: int = 4,
    scaling: float = 2.0,
    seed: int = 0,
    size: float = 1.0,
    dtype: torch.dtype = torch.float32,
    modules: Mapping[str, BaseModule] = MODULES,
) -> LoraWeights:
    """Random factors on ``modules``; ``size`` makes the whole effect as small as a test likes."""
    generator = torch.Generator().manual_seed(seed)

    def factor(rows: int, columns: int, scale: float) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * scale).to(dtype)

    made = {
        path: ModuleWeights(
            factor(r, module.d_in, module.d_in**-0.5),
            factor(module.d_out, r, size * r**-0.5),
            scaling,
            module.kind == "embedding",
        )
        for path, module in modules.items()
    }
    return LoraWeights(name, made)


def put(into: Slots, adapter: LoraWeights) -> int:
    """Copy an adapter into a free slot, and give its number."""
    shapes = {
        path: Shape(module.rank, module.a.shape[1], module.b.shape[0], module.embedding)
        for path, module in adapter.modules.items()
    }
    slot = into.reserve(adapter.name, shapes)
    for path, module in adapter.modules.items():
        a, b = into.at(slot, path)
        a[: module.rank].copy_(module.a)
        b[:, : module.rank].copy_(module.b)
    into.scale(slot, {path: module.scaling for path, module in adapter.modules.items()})
    return slot


def slots(*, max_loras: int = 3, max_lora_rank: int = 8, dtype: torch.dtype = torch.float32) -> Slots:
    return Slots(MODULES, max_loras, max_lora_rank, dtype=dtype)


def inputs(path: str, tokens: int, *, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    module = MODULES[path]
    if module.kind == "embedding":
        return torch.randint(module.d_in, (tokens,), generator=generator)
    return torch.randn(tokens, module.d_in, generator=generator).to(dtype)


def token_by_token(
    x: torch.Tensor, slot_of_token: list[int], adapters: Mapping[int, LoraWeights], path: str
) -> torch.Tensor:
    """The simplest loop: what LoRA adds to each token ``[tokens, d_out]``, in float64, from the weights themselves."""
    rows = []
    for token, slot in zip(x, slot_of_token, strict=True):
        if slot == 0 or path not in adapters[slot].modules:
            rows.append(torch.zeros(MODULES[path].d_out, dtype=torch.float64))
            continue
        module = adapters[slot].modules[path]
        a, b = module.a.double(), module.b.double()
        shrunk = a[:, token] if module.embedding else a @ token.double()
        rows.append(module.scaling * (b @ shrunk))
    return torch.stack(rows)
