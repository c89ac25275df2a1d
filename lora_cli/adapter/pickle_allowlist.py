"""The values that a pickle may describe, and the names that it may look up: whatever is not in these tables is refused.

Weights may hold what torch writes for tensors. The files that a trainer leaves next to them may hold besides what it
writes for its arguments and for the states of optimizers, schedulers and random generators, as opaque data.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lora_cli import parse
from lora_cli.adapter.safetensors import DTYPE_BITS, TORCH_NAMES
from lora_cli.errors import FormatError

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
    """An object whose contents do not matter here.

    ``buildable``: BUILD may set its attributes. Of a numpy dtype, ``layout`` is what its state must have from the third
    item on: subarray, names, fields, size, alignment, flags.
    """

    what: str
    buildable: bool = False
    layout: tuple[int | None, ...] | None = None


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


def describe(value: Value) -> str:
    """The kind of a value in words, without looking into it."""
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
        raise FormatError(f"names the dtype {describe(value)}, which is unknown")
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
        raise FormatError(f"refers to a storage of type {describe(kind)}")
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


def _count(value: Value) -> int:
    # type() and not isinstance(): a bool is an int to Python.
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise FormatError(f"is given {describe(value)} instead of a count")
    return value


def span(tensor: TorchTensor) -> int:
    """Elements from the first to the last one that the tensor has, those between included."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))


Call = Callable[[tuple[Value, ...]], Value]
"""Describes the result of a call. Raises ``FormatError`` for a call that no known tool writes."""

LATIN1 = ("latin1", "latin-1")
PLAIN = (type(None), bool, int, float, str, bytes)


def _plain(what: str, least: int = 0, most: int = 64) -> Call:
    """A call that takes nothing but plain values, or one sequence of what is data already, and gives data."""

    def call(args: tuple[Value, ...]) -> Opaque:
        if not least <= len(args) <= most:
            raise FormatError(f"is called with {len(args)} arguments")
        if not all(isinstance(arg, PLAIN) for arg in args) and not (
            len(args) == 1 and isinstance(args[0], tuple | list)
        ):
            raise FormatError("is called with arguments that are not plain values")
        return Opaque(what)

    return call


def _ordered_dict(args: tuple[Value, ...]) -> Items:
    if args:
        raise FormatError("is called with arguments")
    return Items([])


FACTORIES = [None, Global("builtins", "dict"), Global("builtins", "list"), Global("builtins", "int")]
# A list, and not a set: nothing of a pickle is ever hashed, for a tuple in it may be nested at will.


def _defaultdict(args: tuple[Value, ...]) -> Items:
    if args and (len(args) > 1 or args[0] not in FACTORIES):
        raise FormatError("is called with a factory")
    return Items([])


def _counter(args: tuple[Value, ...]) -> Opaque:
    if args and not isinstance(args[0], Items):
        raise FormatError(f"is called with {describe(args[0])}")
    return Opaque("a Counter")


def _encode(args: tuple[Value, ...]) -> Opaque:
    if len(args) != 2 or not all(isinstance(arg, str) for arg in args) or args[1] not in LATIN1:
        raise FormatError("is called with arguments other than a string and latin1")
    return Opaque("bytes")


def _bytearray(args: tuple[Value, ...]) -> Opaque:
    # A number would be taken for a size, and its memory be had.
    return Opaque("bytes") if not args or (len(args) == 1 and isinstance(args[0], bytes)) else _encode(args)


def _array(args: tuple[Value, ...]) -> Opaque:
    if len(args) != 3 or args[0] != Global("numpy", "ndarray"):
        raise FormatError("is called for a type other than ndarray")
    return Opaque("an array", buildable=True)


def _numpy_dtype(args: tuple[Value, ...]) -> Opaque:
    found = re.fullmatch(r"[<>|=]?([biufcSUVmMO])(\d{0,9})", args[0]) if args and isinstance(args[0], str) else None
    if found is None:
        raise FormatError("is called with a dtype other than plain numbers, text or objects")
    kind, length = found[1], int(found[2] or 0)
    # As numpy writes it. With another state, bytes would be taken for pointers, or read beyond their end.
    own = {"S": (length, 1, 0), "V": (length, 1, 0), "U": (4 * length, 4, 8), "O": (-1, -1, 63)}.get(kind, (-1, -1, 0))
    return Opaque(OBJECTS if kind == "O" else "a numpy dtype", buildable=True, layout=(None, None, None, *own))


OBJECTS = "a numpy dtype of objects"
"""Only for an array whose values are a list, which is data; bytes would be taken for pointers."""


def _is_plain_dtype(value: Value) -> bool:
    return isinstance(value, Opaque) and value.what != OBJECTS


def _frombuffer(args: tuple[Value, ...]) -> Opaque:
    if len(args) != 4 or not isinstance(args[0], bytes) or not _is_plain_dtype(args[1]):
        raise FormatError("is called with arguments other than bytes and a dtype")
    return Opaque("an array")


def _numpy_scalar(args: tuple[Value, ...]) -> Opaque:
    if len(args) != 2 or not _is_plain_dtype(args[0]) or not isinstance(args[1], bytes | Opaque):
        raise FormatError("is called with arguments other than a dtype and bytes")
    return Opaque("a numpy scalar")


GETATTR = Global("builtins", "getattr")
"""Python 3.11.0 to 3.11.3 pickled a member of an enumeration as ``getattr(Enumeration, "MEMBER")``."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The names that one kind of file may look up.

    ``calls``: REDUCE may call it, with what the function says. ``data``: it may only be a value. ``objects``: NEWOBJ
    may make one of it without arguments, and BUILD may fill it; matched against ``module name``. ``enums``: REDUCE may
    call it with one plain value, or take a member of it by name; matched in the same way. ``opcodes``: those that may
    occur at all; empty for every one that is in the table. ``who`` has use for all this.
    """

    calls: Mapping[Global, Call]
    data: frozenset[Global]
    objects: tuple[re.Pattern[str], ...] = ()
    enums: tuple[re.Pattern[str], ...] = ()
    opcodes: frozenset[str] = frozenset()
    who: str = "weights"

    def knows(self, name: Global) -> bool:
        """Whether the name may be looked up at all."""
        return (
            self.is_data(name) or name in self.calls or self.is_object(name) or (name == GETATTR and bool(self.enums))
        )

    def is_object(self, name: Global) -> bool:
        """Whether it is a class whose instances are opaque data."""
        return _matches(self.objects, name)

    def is_enum(self, name: Global) -> bool:
        """Whether it is an enumeration."""
        return _matches(self.enums, name)

    def is_data(self, name: Global) -> bool:
        """Whether the name itself may be among values."""
        return name in self.data or self.is_enum(name)


@lru_cache(maxsize=1024)
def _matches(patterns: tuple[re.Pattern[str], ...], name: Global) -> bool:
    text = f"{name.module} {name.name}"
    return len(text) <= 200 and any(pattern.fullmatch(text) for pattern in patterns)


def _names(module: str, names: Mapping[str, str] | tuple[str, ...]) -> frozenset[Global]:
    return frozenset(Global(module, name) for name in names)


_REBUILDS: Mapping[Global, Call] = {
    Global("torch._utils", "_rebuild_tensor_v2"): rebuild_v2,
    Global("torch._utils", "_rebuild_tensor_v3"): rebuild_v3,
    Global("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): rebuild_parameter,
}

_TENSOR_TYPES = (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))


def _from_type(args: tuple[Value, ...]) -> Value:
    """``_rebuild_from_type_v2(function, type, arguments, state)``: a tensor that has attributes of its own."""
    if len(args) != 4 or args[1] not in _TENSOR_TYPES or not isinstance(args[0], Global) or args[0] not in _REBUILDS:
        raise FormatError("is called for a type other than a tensor")
    return _REBUILDS[args[0]](args[2] if isinstance(args[2], tuple) else ())


_TENSORS: Mapping[Global, Call] = {
    **_REBUILDS,
    Global("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("torch", "Size"): _plain("a size", 1, 1),
    Global("torch", "device"): _plain("a device", 1, 2),
}

_NUMPY: Mapping[Global, Call] = {
    Global(f"numpy.{core}.{module}", name): call
    for core in ("core", "_core")
    for module, name, call in (
        ("multiarray", "_reconstruct", _array),
        ("multiarray", "scalar", _numpy_scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}

WEIGHTS = Allowed(
    calls=_TENSORS,
    data=frozenset((*_REBUILDS, *_TENSOR_TYPES, Global("torch.storage", "UntypedStorage")))
    | _names("torch", STORAGES)
    | _names("torch", DTYPES),
    # What torch's weights_only reader knows (``torch/_weights_only_unpickler.py``, 2.13): PEFT and vLLM load with it.
    opcodes=frozenset(
        (
            *("PROTO", "STOP", "MARK", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "BINPERSID"),
            *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
            *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
            *("BINFLOAT", "LONG1", "BINUNICODE", "SHORT_BINSTRING", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"),
        )
    ),
)
"""The weights of an adapter: what ``torch.load(weights_only=True)`` reads, and only tensors."""

TRAINER = Allowed(
    calls={
        **_TENSORS,
        **_NUMPY,
        Global("collections", "defaultdict"): _defaultdict,
        Global("collections", "Counter"): _counter,
        Global("_codecs", "encode"): _encode,
        Global("numpy", "dtype"): _numpy_dtype,
        Global("builtins", "set"): _plain("a set", 0, 1),
        Global("builtins", "frozenset"): _plain("a set", 0, 1),
        # So protocol 2 writes empty bytes.
        Global("builtins", "bytes"): _plain("bytes", 0, 0),
        Global("builtins", "bytearray"): _bytearray,
        Global("builtins", "complex"): _plain("a number", 2, 2),
        Global("datetime", "timedelta"): _plain("a timedelta", 0, 3),
        Global("pathlib", "PosixPath"): _plain("a path"),
        Global("pathlib", "WindowsPath"): _plain("a path"),
        Global("pathlib._local", "PosixPath"): _plain("a path"),
        Global("torch.serialization", "_get_layout"): _plain("a layout", 1, 1),
    },
    data=WEIGHTS.data | _names("numpy", ("ndarray",)) | _names("builtins", ("dict", "list", "int")),
    objects=(
        re.compile(r"transformers\.training_args(_seq2seq)? (Seq2Seq)?TrainingArguments"),
        re.compile(r"transformers\.trainer_pt_utils AcceleratorConfig"),
        re.compile(r"transformers\.(integrations\.)?deepspeed (HfTrainerDeepSpeedConfig|HfDeepSpeedConfig)"),
        re.compile(r"transformers\.generation\.configuration_utils GenerationConfig"),
        re.compile(r"accelerate\.state (PartialState|AcceleratorState)"),
        re.compile(r"accelerate\.utils\.dataclasses [A-Z]\w*(Plugin|Config|Configuration)", re.ASCII),
        re.compile(r"trl\.(trainer|experimental)(\.[a-z0-9_]+)* [A-Z]\w*Config", re.ASCII),
        # Trainers with arguments of their own; a name in __main__ is whatever the training script was.
        re.compile(r"(__main__|axolotl\.[a-z0-9_.]+|llamafactory\.[a-z0-9_.]+|swift\.[a-z0-9_.]+) [A-Z]\w*Arguments"),
        re.compile(
            r"torch\.distributed\.checkpoint\.(metadata|filesystem) "
            r"((TensorStorage|BytesStorage|ChunkStorage|)Metadata|TensorProperties|MetadataIndex|StorageMeta|_StorageInfo)"
        ),
        re.compile(r"(unsloth_compiled_cache\.)?Unsloth[A-Za-z]+Trainer Unsloth[A-Za-z0-9]+Config", re.ASCII),
    ),
    enums=(
        re.compile(r"transformers\.trainer_utils (Interval|Save|Hub|Evaluation)Strategy"),
        re.compile(r"transformers\.trainer_utils (SchedulerType|FSDPOption)"),
        re.compile(r"transformers\.training_args (OptimizerNames|ParallelMode)"),
        re.compile(r"transformers\.debug_utils DebugOption"),
        re.compile(r"torch\.distributed\.checkpoint\.metadata _MEM_FORMAT_ENCODING"),
        re.compile(r"accelerate\.utils\.dataclasses [A-Z]\w*(Type|Backend|Precision)", re.ASCII),
    ),
    who="trainers",
)
"""``training_args.bin``, ``optimizer.pt``, ``scheduler.pt``, ``rng_state.pth``: whatever is next to weights."""
