"""Pairs of adapters that are alike in one way: equal, scaled, in another basis, padded, trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lora_cli.core.comparison import Comparison
from lora_cli.core.reference import AdapterRef
from lora_cli.reading.adapter import Opened, read_adapter
from lora_cli.reading.comparison import compare
from lora_cli.sources.local import LocalSource

PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
FIELDS = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj", "embed_tokens"]}
WEIGHTS = "adapter_model.safetensors"

Tensors = dict[str, torch.Tensor]


def place(directory: Path) -> Opened:
    source = LocalSource()
    revision = source.resolve(AdapterRef("file", str(directory)))
    return Opened(source, revision, read_adapter(source, revision, directory.name))


def compared(a: Path, b: Path, unread: str = "") -> Comparison:
    return compare(place(a), place(b), None, unread)


def changed(a: Path, b: Path, change: Callable[[Tensors], Tensors], **fields: Any) -> Path:
    """``b``: the adapter in ``a`` with other tensors and fields."""
    b.mkdir()
    config = {**json.loads((a / "adapter_config.json").read_text()), **fields}
    (b / "adapter_config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous() for name, tensor in change(load_file(a / WEIGHTS)).items()}
    save_file(tensors, b / WEIGHTS, {"format": "pt"})
    return b


def factors(tensors: Tensors) -> list[tuple[str, str]]:
    """The names of A and B of each module."""
    return [
        (name, name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B"))
        for name in tensors
        if "_A" in name
    ]


def same(tensors: Tensors) -> Tensors:
    return tensors


def each(
    make: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> Callable[[Tensors], Tensors]:
    """Changes the factors of every module, and keeps their dtype."""

    def change(tensors: Tensors) -> Tensors:
        torch.manual_seed(5)
        new = dict(tensors)
        for a, b in factors(tensors):
            made = make(tensors[a].double(), tensors[b].double())
            new[a], new[b] = (one.to(tensors[a].dtype) for one in made)
        return new

    return change


def in_another_basis(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    turn = torch.randn(len(a), len(a), dtype=torch.float64)
    return torch.linalg.inv(turn) @ a, b @ turn


def padded(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([a, torch.randn_like(a)]), torch.cat([b, torch.zeros_like(b)], dim=1)


def trained_on(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return a + 0.05 * torch.randn_like(a) * a.std(), b + 0.05 * torch.randn_like(b) * b.std()


def from_another_seed(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn_like(a), torch.randn_like(b)
