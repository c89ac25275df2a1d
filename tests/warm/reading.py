"""Adapters and bases on disk, read as the program reads them. Torch is imported with the first weight."""

from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.sources.files import files_at
from lora_cli.warm.composable import scalings
from tests.making import HIDDEN, LAYERS, VOCAB, llama_modules

if TYPE_CHECKING:
    from lora_cli.warm.weights import ModuleWeights

LLAMA = BaseModel(
    "tiny llama",
    "llama",
    {
        "model.embed_tokens": BaseModule(VOCAB, HIDDEN, kind="embedding"),
        **{path: BaseModule(d_in, d_out) for path, (d_in, d_out) in llama_modules().items()},
        "lm_head": BaseModule(HIDDEN, VOCAB),
    },
    num_layers=LAYERS,
    hidden_size=HIDDEN,
    vocab_size=VOCAB,
)
"""The base of ``write_base``."""


def read(directory: Path, name: str = "adapter") -> Adapter:
    return read_adapter(files_at(directory), name)


def load(directory: Path, base: BaseModel = LLAMA) -> "dict[str, ModuleWeights]":
    from lora_cli.warm.weights import read_weights

    adapter = read(directory)
    return read_weights(directory, adapter, scalings(adapter, base))
