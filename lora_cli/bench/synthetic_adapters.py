"""Synthetic adapters, to be loaded and measured: on every linear module of a base, in bfloat16."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.base.base_model import BaseModel
from lora_cli.bench.random_streams import RandomStream
from lora_cli.errors import MachineError
from lora_cli.peft.targets import all_linear
from lora_cli.store.disk import write_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 4_096
"""Random values; every tensor repeats them from another offset."""

BYTES = 2
LEAST = 0x3C00
"""1/128 in bfloat16: every value is between this and twice as much, above or below 0."""


def write_synthetic(folder: Path, base: BaseModel, rank: int, name: str, seed: int) -> None:
    """An adapter of that rank in ``folder``, which is made; the same name and seed are the same adapter.

    Raises:
        MachineError: the weights cannot be written.
        OSError: the folder or the config cannot.
    """
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
    _write_weights(folder / "adapter_model.safetensors", dict(_shapes(base, rank)), _block(name, seed))


def _write_weights(path: Path, shapes: Mapping[str, tuple[int, int]], block: "NDArray[np.uint16]") -> None:
    """Every tensor is a view of one array: there is memory for the largest of them only."""
    import ml_dtypes
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    largest = max((rows * columns for rows, columns in shapes.values()), default=0)
    values = np.resize(block, BLOCK + largest).view(ml_dtypes.bfloat16)
    tensors = {}
    for number, (name, (rows, columns)) in enumerate(shapes.items()):
        start = number * 97 % BLOCK
        tensors[name] = values[start : start + rows * columns].reshape(rows, columns)
    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:
        raise MachineError(f"cannot write {path}: {error}") from error


def _shapes(base: BaseModel, rank: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for path in all_linear(base):
        module = base.modules[path]
        yield f"base_model.model.{path}.lora_A.weight", (rank, module.d_in)
        yield f"base_model.model.{path}.lora_B.weight", (module.d_out, rank)


def _block(name: str, seed: int) -> "NDArray[np.uint16]":
    import numpy as np

    stream = RandomStream.derive(f"weights {name}", seed)
    return np.fromiter((LEAST | stream.below(128) | stream.below(2) << 15 for _ in range(BLOCK)), "<u2", BLOCK)


def total_bytes(base: BaseModel, ranks: Mapping[str, int]) -> int:
    """Bytes of the weights of all of them."""
    modules = (base.modules[path] for path in all_linear(base))
    return BYTES * sum(ranks.values()) * sum(module.d_in + module.d_out for module in modules)
