"""What a pickle's opcodes add up to: descriptions of values, of torch's tensors and of the state dict that holds them.

No class of the pickle is ever imported or called.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_cli.core import parse
from lora_cli.core.safetensors import DTYPE_BITS, LONGEST_NAME, MOST_TENSORS, TORCH_NAMES, TensorInfo
from lora_cli.errors import FormatError, TooLarge

STORAGES: Mapping[str, str] = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "C128",
}
"""``torch.<name>``: safetensors' name of the dtype."""

DTYPES: Mapping[str, str] = {**{name: dtype for dtype, name in TORCH_NAMES.items()}, "complex128": "C128"}
"""``torch.<name>``: safetensors' name of the dtype."""

MOST_DIMENSIONS = 64
"""As many as torch allows."""

LARGEST = 2**63 - 1
"""torch counts elements in signed 64-bit integers."""

Value = Any
"""None, bool, int, float, str, bytes, tuple, list, or one of the classes below."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle looks up in a module."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """An object whose contents do not matter here. ``buildable``: BUILD may set its attributes."""

    what: str
    buildable: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """A dictionary, as the pairs in which it was written: keys are never hashed, for they may be nested at will."""

    pairs: list[tuple[Value, Value]]


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the file.

    ``dtype`` is safetensors' name of their type, and empty for an untyped one, which counts in bytes. ``key`` names it
    in the file, and ``numel`` counts its elements.
    """

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A tensor over a storage: ``offset`` and ``strides`` count elements of ``dtype``."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


KINDS = {
    type(None): "None",
    bytes: "bytes",
    tuple: "a tuple",
    Items: "a dictionary",
    Storage: "a storage",
    TorchTensor: "a tensor",
}


def in_words(value: Value) -> str:
    """What a value is, in words; never looks into it."""
    if isinstance(value, Global):
        return str(value)[:200]
    return value.what if isinstance(value, Opaque) else KINDS.get(type(value)) or parse.kind_of(value)


def item_bytes(dtype: str) -> int:
    """Bytes of one element; an untyped storage (no dtype) counts in bytes."""
    return {"": 1, "C128": 16}.get(dtype) or DTYPE_BITS[dtype] // 8


def rebuild_v2(args: tuple[Value, ...]) -> TorchTensor:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks[, metadata])``."""
    if not 6 <= len(args) <= 7 or not isinstance(args[0], Storage) or not args[0].dtype:
        raise FormatError("is not called as torch calls it")
    _no_hooks(args[5])
    return _tensor(args[0], args[0].dtype, args[1], args[2], args[3])


def rebuild_v3(args: tuple[Value, ...]) -> TorchTensor:
    """``_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, backward_hooks, dtype[, metadata])``."""
    if not 7 <= len(args) <= 8 or not isinstance(args[0], Storage) or args[0].dtype:
        raise FormatError("is not called as torch calls it")
    _no_hooks(args[5])
    dtype = dtype_of(args[6])
    return _tensor(args[0], dtype, args[1], args[2], args[3])


def rebuild_parameter(args: tuple[Value, ...]) -> TorchTensor:
    """``_rebuild_parameter(data, requires_grad, backward_hooks[, state])``: the tensor itself."""
    if not 3 <= len(args) <= 4 or not isinstance(args[0], TorchTensor):
        raise FormatError("is not called as torch calls it")
    _no_hooks(args[2])
    return args[0]


def dtype_of(value: Value) -> str:
    """Safetensors' name of a ``torch.<dtype>``."""
    if not isinstance(value, Global) or value.module != "torch" or value.name not in DTYPES:
        raise FormatError(f"names the dtype {in_words(value)}, which is unknown")
    return DTYPES[value.name]


def storage_of(reference: Value) -> Storage:
    """The storage that torch's persistent id stands for: ``("storage", type, key, location, numel[, view])``.

    ``view`` is None, and only in legacy files.
    """
    if not isinstance(reference, tuple) or not 5 <= len(reference) <= 6 or reference[0] != "storage":
        raise FormatError("refers to an object that is not a storage")
    _, kind, key, location, numel, *view = reference
    if not isinstance(kind, Global) or not isinstance(key, str) or not isinstance(location, str):
        raise FormatError("refers to a storage in a way that torch never writes")
    if kind == Global("torch.storage", "UntypedStorage"):
        dtype = ""
    elif kind.module == "torch" and kind.name in STORAGES:
        dtype = STORAGES[kind.name]
    else:
        raise FormatError(f"refers to a storage of type {in_words(kind)}")
    if view and view[0] is not None:
        raise FormatError("refers to a part of a storage, as torch did before 0.4")
    return Storage(dtype, key, _count(numel))


def _no_hooks(hooks: Value) -> None:
    # torch writes an empty OrderedDict; hooks would be called when gradients flow.
    if hooks is not None and not (isinstance(hooks, Items) and not hooks.pairs):
        raise FormatError("is given hooks to call")


def _tensor(storage: Storage, dtype: str, offset: Value, size: Value, stride: Value) -> TorchTensor:
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise FormatError("is given a shape that is not a tuple")
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise FormatError(f"is given {len(size)} dimensions and {len(stride)} strides")
    shape, strides = tuple(map(_count, size)), tuple(map(_count, stride))
    tensor = TorchTensor(storage, dtype, _count(offset), shape, strides)
    if math.prod(dimension for dimension in shape if dimension) > LARGEST:
        raise FormatError("is given a shape that overflows 64 bits")
    if (tensor.offset + span(tensor)) * item_bytes(dtype) > storage.numel * item_bytes(storage.dtype):
        raise FormatError(f"is given a shape {list(shape)[:8]} that reaches beyond its storage of {storage.numel}")
    return tensor


def span(tensor: TorchTensor) -> int:
    """Elements from the first to the last one that the tensor has, those between included."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))


def is_contiguous(tensor: TorchTensor) -> bool:
    """Whether its elements are one after the other in the order of their indices."""
    wanted = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size == 0:
            return True
        if size != 1 and stride != wanted:
            return False
        wanted *= size
    return True


def _count(value: Value) -> int:
    # type() and not isinstance(): a bool is an int to Python.
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise FormatError(f"is given {in_words(value)} instead of a count")
    return value


def state_dict(value: Value) -> dict[str, TorchTensor]:
    """The tensors of a state dict by name.

    Raises:
        FormatError: it is no dictionary of tensors by name, or a name appears twice.
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
