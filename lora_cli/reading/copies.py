"""Which tensors of an adapter are the base's own weights, saved along: compared bit by bit, as streams.

PEFT saves an embedding whole wherever one is targeted (``save_embedding_layers="auto"``), in the dtype that the model
had in memory; a copy is what the base's weight is in that dtype.
"""

from collections.abc import Mapping

import numpy as np

from lora_cli.core.snapshot import Revision
from lora_cli.core.tensor_info import TensorInfo
from lora_cli.errors import FormatError
from lora_cli.reading.checkpoint import Checkpoint, slices
from lora_cli.reading.tensor_values import decode, encode
from lora_cli.sources import Source


def copies(
    source: Source, revision: Revision, weights: Mapping[str, TensorInfo], base: Checkpoint, tied: Mapping[str, str]
) -> dict[str, bool]:
    """Whether each of the adapter's ``weights``, given by the base's parameter that it stands for, equals it; by name.

    ``tied`` names the parameter that another one, not stored, is. What the base does not have, or has quantised or in
    parts, was not compared, and is not in it.

    Raises:
        LoraCliError: what the sources raise.
    """
    made_of = base.in_memory()
    found: dict[str, bool] = {}
    for path, tensor in weights.items():
        own = made_of.get(path) or made_of.get(tied.get(path, ""), ())
        if len(own) == 1:
            try:
                found[tensor.name] = _is_copy(source, revision, tensor, base, own[0])
            except FormatError:
                continue
    return found


def _is_copy(source: Source, revision: Revision, tensor: TensorInfo, base: Checkpoint, own: TensorInfo) -> bool:
    if tensor.shape != own.shape:
        return False
    theirs = slices(base.source, base.revision, own)
    for ours, one in zip(slices(source, revision, tensor), theirs, strict=True):
        same = one if own.dtype == tensor.dtype else encode(decode(one, own.dtype), tensor.dtype)
        if not np.array_equal(ours, same):
            return False
    return True
