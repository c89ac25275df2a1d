"""Adapters that nobody trained, to be loaded and measured: on every linear module of a base, in bfloat16."""

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from sys import byteorder
from typing import Any

from lora_cli.bench.draws import Draws
from lora_cli.core.base_model import BaseModel
from lora_cli.core.targets import all_linear
from lora_cli.store.disk import write_file

BLOCK = 4_096
"""Values that are drawn; every tensor is made of them, from another one on."""

BYTES = 2
LEAST = 0x3C00
"""1/128 in bfloat16: every value is between this and twice as much, above or below 0."""


def synthetic_bytes(base: BaseModel, rank: int) -> int:
    """Bytes of the weights of one adapter."""
    modules = (base.modules[path] for path in all_linear(base))
    return BYTES * rank * sum(module.d_in + module.d_out for module in modules)


def write_synthetic(folder: Path, base: BaseModel, rank: int, name: str, seed: int) -> None:
    """An adapter of that rank in ``folder``, which is made; the same name and seed are the same adapter."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({path.rpartition(".")[2] for path in all_linear(base)}),
        "bias": "none",
    }
    write_file(folder / "adapter_config.json", json.dumps(config, indent=2))
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.writelines(_weights(base, rank, _block(name, seed)))


def _weights(base: BaseModel, rank: int, block: bytes) -> Iterator[bytes]:
    """The file, piece by piece."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    shapes = dict(_shapes(base, rank))
    for name, (rows, columns) in shapes.items():
        start, end = end, end + BYTES * rows * columns
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for number, (rows, columns) in enumerate(shapes.values()):
        start, left = BYTES * (number * 97 % BLOCK), BYTES * rows * columns
        turned = block[start:] + block[:start]
        whole, rest = divmod(left, len(turned))
        yield from (turned for _ in range(whole))
        yield turned[:rest]


def _shapes(base: BaseModel, rank: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for path in all_linear(base):
        module = base.modules[path]
        yield f"base_model.model.{path}.lora_A.weight", (rank, module.d_in)
        yield f"base_model.model.{path}.lora_B.weight", (module.d_out, rank)


def _block(name: str, seed: int) -> bytes:
    draws = Draws.apart(f"weights {name}", seed)
    values = array("H", (LEAST | draws.below(128) | draws.below(2) << 15 for _ in range(BLOCK)))
    if byteorder == "big":
        values.byteswap()
    return values.tobytes()


def total_bytes(base: BaseModel, ranks: Mapping[str, int]) -> int:
    """Bytes of the weights of all of them."""
    return sum(synthetic_bytes(base, rank) for rank in ranks.values())
