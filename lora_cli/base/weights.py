"""A base model's weights on this disk: which tensors of an adapter are copies of them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lora_cli.adapter.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.adapter.values import Bits, decode, encode, load
from lora_cli.base.checkpoint import names_in_memory
from lora_cli.base.reading import read_checkpoint
from lora_cli.errors import FormatError
from lora_cli.sources.files import Files

ELEMENTS_PER_READ = 1 << 18


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a base model by their names on disk, and the files that they are in.

    ``tied`` maps parameters that are not stored to those that they are tied to.
    """

    files: Files
    tensors: Mapping[str, TensorInfo]
    tied: Mapping[str, str]


def checkpoint_at(files: Files, name: str, tied: Mapping[str, str]) -> Checkpoint | None:
    """The checkpoint in ``files``, from its headers; None if there is none. ``name`` is as for ``read_checkpoint``.

    Raises:
        FormatError: index or header is malformed, or a shard is missing.
        LoraCliError: what the source raises.
    """
    tensors = read_checkpoint(files, name)
    return Checkpoint(files, tensors, tied) if tensors else None


def base_copies(files: Files, weights: Mapping[str, TensorInfo], base: Checkpoint) -> dict[str, bool]:
    """Tensor name → whether it equals the base's weight, for the adapter's ``weights`` by parameter of the base.

    PEFT saves whole embeddings that are targeted (``save_embedding_layers="auto"``), in the dtype that the model had in
    memory; a copy equals the base's weight in that dtype. Weights that the base does not have, or has quantised, are
    not compared and not in the result.

    Raises:
        LoraCliError: what the sources raise.
    """
    # A name on disk stands for itself, too, for an adapter that has the old names as well.
    names = {**{name: name for name in base.tensors}, **names_in_memory(base.tensors)}
    found: dict[str, bool] = {}
    for path, tensor in weights.items():
        own = base.tensors.get(names.get(path) or names.get(base.tied.get(path, ""), ""))
        if own is not None and {own.dtype, tensor.dtype} <= DTYPE_BITS.keys():
            pieces = zip(_pieces(files, tensor), _pieces(base.files, own), strict=True)
            try:
                found[tensor.name] = tensor.shape == own.shape and all(
                    np.array_equal(
                        ours, one if own.dtype == tensor.dtype else encode(decode(one, own.dtype), tensor.dtype)
                    )
                    for ours, one in pieces
                )
            except FormatError:  # stored in a way that is no number
                continue
    return found


def _pieces(files: Files, tensor: TensorInfo) -> Iterator[Bits]:
    """The elements of ``tensor`` in order, ``ELEMENTS_PER_READ`` at a time."""
    count, width = math.prod(tensor.shape), DTYPE_BITS[tensor.dtype] // 8
    for start in range(0, count, ELEMENTS_PER_READ):
        part = min(ELEMENTS_PER_READ, count - start)
        first = tensor.start + start * width
        yield load(files, replace(tensor, shape=(part,), start=first, stop=first + part * width))
