"""Torch files by ranges: their zip directory and their pickle's opcodes, never the tensors. Nothing is unpickled.

Since 1.6 ``torch.save`` writes a zip of stored entries: ``data.pkl``, and ``data/KEY`` for each storage. Of the opcodes
those are read that ``torch.load(weights_only=True)`` knows, with which PEFT and vLLM load, and that tensors need.
"""

import math
import pickletools
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple
from zipfile import ZipFile, ZipInfo

from lora_cli.adapter.byte_ranges import HEAD, MOST_AT_ONCE, RangeStream, check_stand_in
from lora_cli.adapter.pickle_names import unfollowed
from lora_cli.adapter.safetensors import DTYPE_BITS, LONGEST_NAME, MOST_TENSORS, TORCH_NAMES, TensorInfo
from lora_cli.errors import FormatError, LoraCliError
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files

ALIGNMENT = 64
"""Bytes to which torch aligns a storage."""

ZIP = b"PK\x03\x04"
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x78", b"\x93NUMPY", b"ZF0x")
"""First bytes of gzip, bzip2, xz, zstd, lz4, zlib, an array of numpy and a file of joblib before 0.10."""

BEGINNINGS = {op.code.encode("latin-1") for op in pickletools.opcodes if not op.stack_before and "PUT" not in op.name}
"""The opcodes that a pickle can begin with: all that take nothing from the stack."""

ENTRY = re.compile(r"(data/\d+|data\.pkl|version|byteorder|\.(format_version|storage_alignment|data/serialization_id))")
DTYPES = {f"torch {name}": dtype for dtype, name in TORCH_NAMES.items()}
STORAGES = {
    f"torch {name}Storage": dtype
    for name, dtype in {
        "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
        "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64",
    }.items()
} | {"torch.storage UntypedStorage": "U8"}  # fmt: skip


class Name(str):
    """A module and a name in it that the pickle looks up, with a space between them."""


class Storage(NamedTuple):
    """The elements in the entry ``data/KEY``."""

    dtype: str
    key: str


class Pairs(list[Any]):
    """A dictionary as its pairs: keys are never hashed, for a pickle may nest them at will."""


PUSHED: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), lambda arg: arg),
    **{"NONE": lambda _: None, "NEWTRUE": lambda _: True, "NEWFALSE": lambda _: False, "EMPTY_TUPLE": lambda _: ()},
    **{"EMPTY_DICT": lambda _: Pairs(), "GLOBAL": Name},
}
"""What an opcode pushes, by its argument."""

TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "SETITEM": 2, "REDUCE": 2, "BUILD": 1, "BINPERSID": 1}
"""How many values an opcode takes from the stack; TUPLE and SETITEMS take those behind the last mark."""

AS_SAFETENSORS = "load it with torch.load(weights_only=True), and save it as safetensors"


@contextmanager
def _one_error(path: str) -> Iterator[None]:
    """Turns whatever hostile bytes make the standard library raise into a ``FormatError`` in the file ``path``."""
    try:
        yield
    except LoraCliError as error:
        raise (error.within(path) if isinstance(error, FormatError) else error) from error.__cause__
    except Exception as error:
        raise FormatError(f"truncated, or not a file of torch.save ({type(error).__name__})", where=path) from error


def read_tensors(files: Files, file: RemoteFile) -> dict[str, TensorInfo]:
    """The tensors of pickled weights by name, in the order of their bytes.

    Away from this disk they are where ``ALIGNMENT`` puts them: each local header would cost a request.

    Raises:
        UnsafePickle: it looks up what neither weights nor a trainer's files need.
        FormatError: it is not a plain ``torch.save`` of a dictionary of contiguous tensors, or a placeholder.
        LoraCliError: what the source raises.
    """
    with _one_error(file.path):
        stream = RangeStream(files, file)
        check_stand_in(stream.head, file)
        if not stream.head.startswith(ZIP):
            unfollowed(stream.read(MOST_AT_ONCE), count())
            raise FormatError("is not a zip as torch writes it since 1.6", hint=AS_SAFETENSORS)
        entries = _entries(stream)
        data = _bytes_of(stream, entries["data.pkl"])
        if why := unfollowed(data, count()):
            raise FormatError(why)
        if "byteorder" in entries and entries["byteorder"].file_size != len("little"):
            raise FormatError("was written by a big-endian machine", hint=AS_SAFETENSORS)
        tensors: dict[str, TensorInfo] = {}
        for name, tensor in _read_pickle(data):
            if type(name) is not str or not isinstance(tensor, TensorInfo) or len(name) > LONGEST_NAME:
                raise FormatError("has something else than tensors by their names")
            if name in tensors or len(tensors) == MOST_TENSORS:
                raise FormatError(f"has {name[:100]!a} twice, or over {MOST_TENSORS} tensors")
            entry = entries[f"data/{tensor.file}"]
            at = _start(stream, entry)
            if tensor.stop > min(entry.file_size, stream.size - at):
                raise FormatError(f"{name[:100]!a} reaches beyond its storage")
            tensors[name] = replace(tensor, name=name, start=at + tensor.start, stop=at + tensor.stop, file=file.path)
        return dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))


def check_pickle(files: Files, file: RemoteFile, steps: Iterator[int]) -> bool:
    """Whether a file next to the weights could be looked into: arrays and what is compressed could not.

    ``steps`` counts the opcodes of all such files together. Raises as ``read_tensors``.
    """
    with _one_error(file.path):
        stream, why = RangeStream(files, file), ""
        if stream.head.startswith(PACKED) or stream.head[257:262] == b"ustar":
            return False
        if stream.head.startswith(ZIP):
            why = unfollowed(_bytes_of(stream, _entries(stream)["data.pkl"]), steps)
        elif stream.head[:1] in BEGINNINGS:
            why = unfollowed(stream.read(MOST_AT_ONCE), steps)
            why = why or (f"has over {MOST_AT_ONCE} bytes" if stream.size > MOST_AT_ONCE else "")
        if why:
            raise FormatError(why)
        return True


def _entries(stream: RangeStream) -> dict[str, ZipInfo]:
    """The entries of a zip by their names without the folder. Raises ``FormatError`` if torch would not write them."""
    if stream.tail[-22:-18] != b"PK\x05\x06":
        raise FormatError("truncated, or not a torch file: it does not end with a zip directory")
    with ZipFile(stream) as archive:
        listed = archive.infolist()
    entries = {info.filename.partition("/")[2]: info for info in listed}
    if strange := [name for name in entries if not ENTRY.fullmatch(name)]:
        what = "is a TorchScript program" if "constants.pkl" in entries else f"holds {strange[0][:100]!a}"
        raise FormatError(f"{what}, which torch.save does not write")
    folders = {info.filename.partition("/")[0] for info in listed}
    stored = all(not info.compress_type and info.file_size == info.compress_size for info in listed)
    if len(entries) != len(listed) or len(folders) != 1 or min(info.header_offset for info in listed) or not stored:
        raise FormatError("is not a zip as torch writes it: one folder of stored entries, each named once")
    return entries


def _start(stream: RangeStream, entry: ZipInfo) -> int:
    """Where the bytes of an entry begin: behind its local header (PKWARE's APPNOTE, 4.3.7)."""
    if not stream.near and entry.header_offset >= HEAD:
        return -(-(entry.header_offset + 34 + len(entry.filename.encode())) // ALIGNMENT) * ALIGNMENT
    stream.seek(entry.header_offset + 26)
    return int(entry.header_offset + 30 + sum(struct.unpack("<2H", stream.read(4))))


def _bytes_of(stream: RangeStream, entry: ZipInfo) -> bytes:
    """The bytes of an entry; not by ``ZipFile.open``, for torch may write no checksums."""
    stream.seek(_start(stream, entry))
    return stream.read(entry.file_size)


def _read_pickle(data: bytes) -> Pairs:
    """The dictionary that a pickle of weights describes: of plain values, dictionaries, tuples and tensors.

    A tensor's ``file`` is the key of its storage, from which its bytes count. Linear in ``data``, whatever it says.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for op, arg, at in pickletools.genops(data):
        name = op.name
        bottom = marks.pop() if name in {"TUPLE", "SETITEMS"} else len(stack) - TAKEN.get(name, 0)
        taken = stack[bottom:]
        del stack[bottom:]
        if name in PUSHED:
            stack.append(PUSHED[name](arg))
        elif name in {"BINGET", "LONG_BINGET"}:
            stack.append(memo[arg])
        elif name in {"BINPUT", "LONG_BINPUT"}:
            memo[arg] = stack[-1]
        elif name == "MARK":
            marks.append(len(stack))
        elif name.startswith("TUPLE"):
            stack.append(tuple(taken))
        elif name.startswith("SETITEM"):
            stack[-1].extend(zip(taken[::2], taken[1::2], strict=True))
        elif name in {"BINPERSID", "REDUCE"}:
            stack.append(_made(*taken))
        elif name not in {"PROTO", "STOP", "BUILD"}:  # BUILD: the attributes of a dictionary, versions of modules
            raise FormatError(f"byte {at}: {name} is not an opcode that weights need")
    if len(stack) != 1 or not isinstance(stack[0], Pairs) or at != len(data) - 1:
        raise FormatError("is not a dictionary of tensors")
    return stack[0]


def _made(function: Any, args: Any = None) -> Any:
    """What a persistent id stands for, or what a call gives: the arguments are those of ``torch/_utils.py``."""
    match function, args:
        case ("storage", Name() as cls, str() as key, _, int()), None:
            return Storage(STORAGES[cls], key)
        case Name("collections OrderedDict"), ():
            return Pairs()
        case Name("torch._tensor _rebuild_from_type_v2"), (function, _, args, _):
            return _made(function, args)
        case Name("torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state"), (tensor, *_):
            return tensor
        case Name("torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor_v3"), (Storage() as storage, *rest):
            offset, shape, strides, _, _, *dtype = rest
            if len(shape) > 64 or any(type(n) is not int or not 0 <= n < 1 << 63 for n in (offset, *shape, *strides)):
                raise FormatError("has a tensor whose shape is not of counts")
            wanted = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            if 0 not in shape and any(n > 1 and a != b for n, a, b in zip(shape, strides, wanted, strict=True)):
                raise FormatError("has a tensor that is not contiguous", hint=AS_SAFETENSORS)
            kind = DTYPES[dtype[0]] if function.endswith("v3") and type(dtype[0]) is Name else storage.dtype
            size = DTYPE_BITS[kind] // 8
            return TensorInfo("", kind, shape, offset * size, (offset + math.prod(shape)) * size, storage.key)
        case _:
            raise FormatError("makes what weights never need")
