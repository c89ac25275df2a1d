"""The base's weights for the proof, one module at a time: the checkpoint's own, or synthetic ones of the same shape."""

import math
import zlib
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from lora_cli.adapter.config import LoraConfig
from lora_cli.base.base_model import BaseModel
from lora_cli.base.reading import INDEX_FILE, WEIGHTS_FILE, names_in_memory, weight_map
from lora_cli.errors import Corrupt, FormatError
from lora_cli.peft.targets import targeted_in


class BaseWeights(Protocol):
    """Weights by module path. ``origin`` is ``"base"`` or ``"synthetic"``, as it is in a ``Proof``."""

    origin: str

    def weight(self, module: str) -> torch.Tensor:
        """``[d_out, d_in]``, for a Conv1D too; ``[vocabulary, width]`` for an embedding."""
        ...


class SyntheticWeights:
    """Seeded weights with standard deviation ``1/sqrt(d_in)``: an input of size 1 gives an output of size 1.

    That is the scale that initialisation aims at, and trained linear layers stay near it.
    """

    origin = "synthetic"

    def __init__(self, base: BaseModel) -> None:
        self._modules = base.modules

    def weight(self, module: str) -> torch.Tensor:
        """float32 weights that depend on the module's path only."""
        shape = self._modules[module]
        generator = torch.Generator().manual_seed(zlib.crc32(module.encode()))
        if shape.kind == "embedding":
            return torch.randn(shape.d_in, shape.d_out, generator=generator)
        return torch.randn(shape.d_out, shape.d_in, generator=generator) / math.sqrt(shape.d_in)


class CheckpointWeights:
    """A checkpoint's own weights, read from its safetensors files when they are asked for, one at a time.

    Raises:
        FormatError: it lacks a linear layer of the base, or holds it quantised or in another shape.
        Corrupt: a file of it is damaged.
    """

    origin = "base"

    def __init__(self, directory: Path, base: BaseModel) -> None:
        self._directory, self._base = directory, base
        index = directory / INDEX_FILE
        single = (directory / WEIGHTS_FILE).is_file() or not index.is_file()  # as transformers prefers it
        shard_of = {} if single else weight_map(index.read_bytes())
        self._files: dict[str, str] = {}
        for file in sorted(set(shard_of.values())) or [WEIGHTS_FILE]:
            with self._opened(file) as opened:
                self._files |= {name: file for name in opened.keys() if shard_of.get(name, file) == file}  # noqa: SIM118
        self._names = names_in_memory(self._files)
        linear = targeted_in(LoraConfig(target_modules="all-linear"), base)
        for module in (one for one in base.modules if one in linear):
            with self._opened(self._files[self._find(module)]) as opened:
                self._check(module, opened)

    def weight(self, module: str) -> torch.Tensor:
        """In the checkpoint's dtype; a Conv1D's as a transposed view."""
        name = self._find(module)
        with self._opened(self._files[name]) as opened:
            self._check(module, opened)
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor.t() if self._base.modules[module].kind == "conv1d" else tensor

    def _opened(self, file: str) -> Any:
        try:
            return safe_open(self._directory / file, "pt")
        except (OSError, SafetensorError) as error:
            hint = "download the base again; with --base FOLDER/config.json the proofs take synthetic weights"
            raise Corrupt(f"the base's checkpoint is damaged: {file}: {error}", hint=hint) from error

    def _find(self, module: str) -> str:
        weight = f"{module}.weight"
        found: str | None = self._names.get(weight) or self._names.get(self._base.tied_weights.get(weight, ""))
        if found is None:
            raise FormatError(f"the checkpoint has no {weight}", where=self._base.name)
        return found

    def _check(self, module: str, opened: Any) -> None:
        shape, name = self._base.modules[module], self._find(module)
        want = [shape.d_out, shape.d_in] if shape.kind == "linear" else [shape.d_in, shape.d_out]
        info = opened.get_slice(name)
        if info.get_dtype() not in {"F64", "F32", "F16", "BF16"} or info.get_shape() != want:
            found = f"{info.get_dtype()} {info.get_shape()}"
            raise FormatError(f"{name} is {found}, not a plain weight of shape {want}", where=self._files[name])
