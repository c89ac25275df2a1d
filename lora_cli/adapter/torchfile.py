"""Torch files and other pickles by their opcodes; torch's also by its zip directory. Nothing is unpickled.

Since 1.6 ``torch.save`` writes a zip of stored entries: ``data.pkl``, and ``data/KEY`` for each storage. Of weights the
opcodes are read that ``torch.load(weights_only=True)`` knows, with which PEFT and vLLM load, and that tensors need.
"""

import io
import math
import pickletools
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from itertools import count
from typing import Any
from zipfile import ZipFile, ZipInfo

from lora_cli.adapter.safetensors import DTYPE_BITS, LONGEST_NAME, TensorInfo
from lora_cli.errors import FormatError, LoraCliError, UnsafePickle
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files, read_range

BLOCK = 1 << 16
"""Bytes of a file that are read at once, where no more is asked for."""

MOST_AT_ONCE = 32 << 20
"""Bytes of a pickle, or of a zip's directory: 150,000 tensors have 24 MiB."""

ZIP, END = b"PK\x03\x04", b"PK\x05\x06"

BEGINNINGS = {op.code.encode("latin-1") for op in pickletools.opcodes if not op.stack_before and "PUT" not in op.name}
"""The opcodes that a pickle can begin with: all that take nothing from the stack."""

ENTRY = re.compile(r"(data/\d+|data\.pkl|version|byteorder|\.(format_version|storage_alignment|data/serialization_id))")
STORAGES = {
    "torch DoubleStorage": "F64", "torch FloatStorage": "F32", "torch HalfStorage": "F16", "torch LongStorage": "I64",
    "torch BFloat16Storage": "BF16", "torch IntStorage": "I32", "torch ShortStorage": "I16", "torch CharStorage": "I8",
    "torch ByteStorage": "U8", "torch BoolStorage": "BOOL",
}  # fmt: skip

MOST_OPCODES = 2_000_000
"""Opcodes of the weights, or of all pickles next to them: those of 36,864 tensors are 1.3 million."""

HARMLESS = re.compile(
    r"torch (\w+Storage|Size|device|Tensor|(float|bfloat|complex|u?int)\d\w*|bool)|torch\.storage UntypedStorage|"
    r"torch\._utils _rebuild_(tensor_v[23]|parameter|parameter_with_state)|torch\._tensor _rebuild_from_type_v2|"
    r"torch\.nn\.parameter Parameter|torch\.serialization _get_layout|datetime timedelta|_codecs encode|"
    r"(__builtin__|builtins) (set|frozenset|bytes|bytearray|complex|dict|list|int)|pathlib(\._local)? \w+Path|"
    r"collections (OrderedDict|defaultdict|Counter)|"
    r"numpy (dtype|ndarray)|numpy\._?core\.(multiarray (_reconstruct|scalar)|numeric _frombuffer)|"
    r"transformers\.training_args(_seq2seq)? ((Seq2Seq)?TrainingArguments|OptimizerNames|ParallelMode)|"
    r"transformers\.trainer_utils ((Interval|Save|Hub|Evaluation)Strategy|SchedulerType|FSDPOption)|"
    r"transformers\.(trainer_pt_utils AcceleratorConfig|debug_utils DebugOption)|"
    r"transformers\.generation\.configuration_utils GenerationConfig|"
    r"transformers\.(integrations\.)?deepspeed Hf(Trainer)?DeepSpeedConfig|"
    r"accelerate\.state (PartialState|AcceleratorState)|"
    r"accelerate\.utils\.dataclasses [A-Z]\w*(Type|Backend|Precision|Plugin|Config|Configuration)|"
    r"trl\.(trainer|experimental)(\.[a-z0-9_]+)* [A-Z]\w*Config|"
    r"(__main__|(axolotl|llamafactory|swift)\.[a-z0-9_.]+) [A-Z]\w*Arguments|"
    r"(unsloth_compiled_cache\.)?Unsloth[A-Za-z]+Trainer Unsloth[A-Za-z0-9]+Config",
    re.ASCII,
)
"""A module and a name: what torch writes for tensors, and trainers for their arguments and the states of optimizers,
schedulers and random generators (run: torch 2.15, transformers 5.24, accelerate 1.15, trl 1.16)."""

PUSHED: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), lambda arg: arg),
    **{"NONE": lambda _: None, "NEWTRUE": lambda _: True, "NEWFALSE": lambda _: False, "EMPTY_TUPLE": lambda _: ()},
    **{"EMPTY_DICT": lambda _: [], "GLOBAL": str},
}
"""What an opcode pushes, by its argument. A dictionary is a list of its pairs: a pickle may nest keys at will."""

TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "SETITEM": 2, "REDUCE": 2, "BUILD": 1, "BINPERSID": 1}
"""How many values an opcode takes from the stack; TUPLE and SETITEMS take those behind the last mark."""

AS_SAFETENSORS = "load it with torch.load(weights_only=True), and save it as safetensors"


class Ranges:
    """A file of a source by ranges. Its first and its last block are kept: a zip's pickle, and its directory."""

    def __init__(self, files: Files, file: RemoteFile) -> None:
        if file.defect or file.size is None:
            raise FormatError(file.defect or "its source does not report its size, so it cannot be read by ranges")
        self.size, self._read = file.size, partial(read_range, files, file)
        self._block = lru_cache(lambda first: self._read(first, min(first + BLOCK, self.size)))

    def part(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``. Raises ``FormatError`` for more than ``MOST_AT_ONCE``."""
        if stop - start > MOST_AT_ONCE:
            raise FormatError(f"has {stop - start} bytes to read at once, more than any weights need")
        for first in (0, max(0, self.size - BLOCK)):
            if first <= start <= stop <= first + BLOCK:
                return self._block(first)[start - first : stop - first]
        return self._read(start, min(stop, self.size))


@contextmanager
def _one_error(path: str) -> Iterator[None]:
    """Turns whatever hostile bytes make the standard library raise into a ``FormatError`` in the file ``path``."""
    try:
        yield
    except LoraCliError as error:
        raise (error.within(path) if isinstance(error, FormatError) else error) from error.__cause__
    except Exception as error:
        why = f"is truncated, or cannot be followed as torch writes it since 1.6 ({type(error).__name__})"
        raise FormatError(why, where=path, hint=AS_SAFETENSORS) from error


def read_torch_file(files: Files, file: RemoteFile) -> dict[str, TensorInfo]:
    """The tensors of pickled weights by name, in the order of their bytes.

    Raises:
        UnsafePickle: it looks up what neither weights nor a trainer's files need.
        FormatError: it is not a plain ``torch.save`` of a dictionary of contiguous tensors.
        LoraCliError: what the source raises.
    """
    with _one_error(file.path):
        ranges = Ranges(files, file)
        entries, data = _pickle(ranges, count())
        if not entries:
            raise FormatError("is not a zip as torch writes it since 1.6", hint=AS_SAFETENSORS)
        if "byteorder" in entries and entries["byteorder"].file_size != len("little"):
            raise FormatError("was written by a big-endian machine", hint=AS_SAFETENSORS)
        tensors: dict[str, TensorInfo] = {}
        for name, tensor in _read_pickle(data):
            if type(name) is not str or not isinstance(tensor, TensorInfo) or len(name) > LONGEST_NAME:
                raise FormatError("has something else than tensors by their names")
            entry = entries[f"data/{tensor.file}"]
            at = _start(ranges, entry, near=files.on_disk)
            if tensor.stop > min(entry.file_size, ranges.size - at):
                raise FormatError(f"{name[:100]!a} reaches beyond its storage")
            tensors[name] = replace(tensor, name=name, start=at + tensor.start, stop=at + tensor.stop, file=file.path)
        return dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))


def check_pickle(files: Files, file: RemoteFile, steps: Iterator[int]) -> bool:
    """Whether a file next to the weights could be looked into: what does not begin as a pickle could not.

    ``steps`` counts the opcodes of all such files together. Raises as ``read_torch_file``.
    """
    with _one_error(file.path):
        ranges = Ranges(files, file)
        head = ranges.part(0, 4)
        if looked := head[:1] in BEGINNINGS or head == ZIP:
            _pickle(ranges, steps)
        return looked or not ranges.size


def _pickle(ranges: Ranges, steps: Iterator[int]) -> tuple[dict[str, ZipInfo], bytes]:
    """The entries of a zip, none of another file, and its pickle, whose names are all ``HARMLESS``.

    Not by ``ZipFile.open``, for torch may write no checksums. Raises as ``check_pickle``.
    """
    entries, start, stop = dict[str, ZipInfo](), 0, min(ranges.size, MOST_AT_ONCE)
    if ranges.part(0, 4) == ZIP:
        entries = _entries(ranges)
        start = _start(ranges, entries["data.pkl"], near=True)
        stop = start + entries["data.pkl"].file_size
    pickles = io.BytesIO(data := ranges.part(start, stop))
    while pickles.tell() < len(data):
        memo: dict[Any, str] = {}
        texts: list[str] = []  # the last two that were pushed, with nothing since
        for op, arg, at in pickletools.genops(pickles):
            if next(steps) >= MOST_OPCODES:
                raise FormatError(f"there are over {MOST_OPCODES} opcodes, more than any weights need")
            if op.name in {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}:
                # A name from the stack must have been pushed there, or put into the memo, as text right before.
                name = " ".join(text.replace(" ", "?") for text in texts) if op.name == "STACK_GLOBAL" else str(arg)
                if not HARMLESS.fullmatch(name):
                    dotted = name.replace(" ", ".")
                    why = f"byte {at}: {op.name} {dotted[:200]!a}, which neither weights nor trainers need"
                    raise UnsafePickle(why, dotted)
            if "UNICODE" in op.name:
                texts = [*texts[-1:], str(arg)]
            elif op.name.endswith("GET"):
                texts = [*texts[-1:], memo.get(arg, "")]
            elif op.name.endswith("PUT") or op.name == "MEMOIZE":
                memo[len(memo) if arg is None else arg] = texts[-1] if texts else ""
            elif op.name not in {"FRAME", "PROTO"}:
                texts = []
    if not entries and ranges.size > stop:
        raise FormatError(f"has over {stop} bytes", hint=AS_SAFETENSORS)
    return entries, data


def _entries(ranges: Ranges) -> dict[str, ZipInfo]:
    """The entries of a zip by their names without the folder. Raises ``FormatError`` if torch would not write them."""
    # Readers differ where these differ: torch goes to the directory that is stated, zipfile to the one before the end.
    tail = ranges.part(max(0, ranges.size - 98), ranges.size)
    (size, stated), place, is_there = struct.unpack("<2L", tail[-10:-2]), ranges.size - 22, tail[-22:-18] == END
    if tail[-42:-38] == b"PK\x06\x07":
        size, stated, place = struct.unpack("<2Q8xQ", tail[-58:-26])
        is_there = is_there and tail[-98:-94] == b"PK\x06\x06" and place == ranges.size - 98
    directory = ranges.part(stated, place)
    with ZipFile(io.BytesIO(directory + struct.pack("<4s8x2L2x", END, len(directory), 0))) as archive:
        listed = archive.infolist()
    entries = {info.filename.partition("/")[2]: info for info in listed}
    folders = {info.filename.partition("/")[0] for info in listed}
    stored = all(not info.compress_type and info.file_size == info.compress_size for info in listed)
    named = len(entries) == len(listed) and len(folders) == 1 and all(map(ENTRY.fullmatch, entries))
    if not (stored and named and is_there and stated + size == place) or min(info.header_offset for info in listed):
        why = "one folder of stored entries, each named once, and their directory where its end says"
        raise FormatError(f"is not a zip as torch writes it: {why}", hint=AS_SAFETENSORS)
    return entries


def _start(ranges: Ranges, entry: ZipInfo, *, near: bool) -> int:
    """Where the bytes of an entry begin: behind its local header (PKWARE's APPNOTE, 4.3.7).

    Where to read that costs a request, at the multiple of 64 to which torch aligns a storage.
    """
    if not near:
        return -(-(entry.header_offset + 34 + len(entry.filename.encode())) // 64) * 64
    lengths = ranges.part(entry.header_offset + 26, entry.header_offset + 30)
    return entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


def _read_pickle(data: bytes) -> list[tuple[Any, Any]]:
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
        # BUILD gives a dictionary attributes, the versions of modules; a tensor would become another one.
        elif name not in {"PROTO", "STOP", "BUILD"} or (name == "BUILD" and not isinstance(stack[-1], list)):
            raise FormatError(f"byte {at}: {name} is not an opcode that weights need")
    if len(stack) != 1 or not isinstance(stack[0], list) or at != len(data) - 1:
        raise FormatError("is not a dictionary of tensors")
    return stack[0]


def _made(function: Any, args: Any = None) -> Any:
    """What a persistent id stands for, or what a call gives: the arguments are those of ``torch/_utils.py``."""
    match function, args:
        case ("storage", str() as cls, str() as key, _, int()), None if cls in STORAGES:
            return STORAGES[cls], key
        case "collections OrderedDict", ():
            return []
        case "torch._utils _rebuild_tensor_v2", ((str() as dtype, str() as key), offset, shape, strides, _, []):
            if len(shape) > 64 or any(type(n) is not int or not 0 <= n < 1 << 63 for n in (offset, *shape, *strides)):
                raise FormatError("has a tensor whose shape is not of counts")
            wanted = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            if 0 not in shape and any(n > 1 and a != b for n, a, b in zip(shape, strides, wanted, strict=True)):
                raise FormatError("has a tensor that is not contiguous", hint=AS_SAFETENSORS)
            size = DTYPE_BITS[dtype] // 8
            return TensorInfo("", dtype, shape, offset * size, (offset + math.prod(shape)) * size, key)
        case _:
            raise FormatError("makes what weights never need", hint=AS_SAFETENSORS)
