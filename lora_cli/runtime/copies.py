"""Copies of the base's own weights that PEFT saves beside a LoRA on an embedding or output layer.

PEFT's ``save_embedding_layers="auto"`` (``utils/save_and_load.py``) writes them whether or not they were changed. They
say something only where they differ from the base's: a resized vocabulary, or layers that were trained as well.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import Refused
from lora_cli.runtime.base_weights import BaseWeights
from lora_cli.runtime.composable import copied_modules
from lora_cli.runtime.weights import read_tensors


def refuse_changed_copies(directory: Path, adapter: Adapter, base: BaseModel, weights: BaseWeights) -> None:
    """Compare every copy with the base's own weight, one at a time.

    Raises:
        Refused: a copy differs, or there is no checkpoint to compare it with.
        Corrupt, MachineError: as reading raises.
    """
    for module, info in _copies(adapter, base):
        if weights.origin != "base":
            raise Refused(
                f"{adapter.name}: {info.name} is a copy of the base's own weight, and there is none to compare it with",
                hint="give --base a directory with the model's safetensors files",
            )
        copy = read_tensors(directory / info.file, [info])[info.name]
        own = weights.weight(module)
        own = own.t() if base.modules[module].kind == "conv1d" else own
        if copy.shape != own.shape or not torch.equal(copy, own.to(copy.device, copy.dtype)):
            raise Refused(
                f"{adapter.name}: {info.name} differs from the base's own weight, and cannot be composed yet",
                hint="it was trained on another base, or the layer was trained as well",
            )


def _copies(adapter: Adapter, base: BaseModel) -> Iterator[tuple[str, TensorInfo]]:
    for name, module in copied_modules(adapter, base).items():
        yield module, adapter.tensors[name]
