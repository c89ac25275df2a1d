"""A state dict that was read from a pickle, as tensors in a file: names, dtypes, shapes, strides and byte ranges."""

from collections.abc import Mapping

from lora_cli.core.pickles.dtypes import item_bytes
from lora_cli.core.pickles.tensors import is_contiguous, span
from lora_cli.core.pickles.values import Items, Storage, TorchTensor, Value, in_words
from lora_cli.core.safetensors import MOST_TENSORS
from lora_cli.core.tensor_info import LONGEST_NAME, TensorInfo
from lora_cli.errors import FormatError, TooLarge


def state_dict(value: Value) -> dict[str, TorchTensor]:
    """The tensors of a state dict by name.

    Raises:
        FormatError: it is no dictionary of tensors by name, or a name stands twice.
    """
    if not isinstance(value, Items):
        raise FormatError(f"holds {in_words(value)} instead of a dictionary of tensors")
    tensors: dict[str, TorchTensor] = {}
    for name, tensor in value.pairs:
        if not isinstance(name, str) or not isinstance(tensor, TorchTensor):
            under = f" under {name[:100]!a}" if isinstance(name, str) else ""
            raise FormatError(f"holds {in_words(tensor)}{under} among its tensors")
        if name in tensors:
            raise FormatError(f"has {name[:100]!a} twice")
        if len(name) > LONGEST_NAME or len(tensors) >= MOST_TENSORS:
            raise TooLarge(f"has over {MOST_TENSORS} tensors, or names of over {LONGEST_NAME} characters")
        tensors[name] = tensor
    return tensors


def storages_of(tensors: Mapping[str, TorchTensor]) -> dict[str, Storage]:
    """The storages that tensors refer to, by key.

    Raises:
        FormatError: two references to one storage differ in its type or size.
    """
    storages: dict[str, Storage] = {}
    for tensor in tensors.values():
        one = tensor.storage
        known = storages.setdefault(one.key, one)
        if known != one:
            raise FormatError(f"refers to storage {one.key[:40]!a} as two different ones")
    return storages


def located(tensors: Mapping[str, TorchTensor], starts: Mapping[str, int], file: str) -> dict[str, TensorInfo]:
    """The tensors in ``file``, whose storages begin at ``starts`` (bytes, by key), in the order of their bytes."""
    found = [_located(name, tensor, starts[tensor.storage.key], file) for name, tensor in tensors.items()]
    return {one.name: one for one in sorted(found, key=lambda one: (one.start, one.stop))}


def _located(name: str, tensor: TorchTensor, storage_start: int, file: str) -> TensorInfo:
    size = item_bytes(tensor.dtype)
    start = storage_start + tensor.offset * size
    strides = () if is_contiguous(tensor) else tensor.strides
    return TensorInfo(name, tensor.dtype, tensor.shape, start, start + span(tensor) * size, file, strides)
