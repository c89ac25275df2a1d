"""torch files from before the zip format: five pickles in a row, then the storages' bytes.

Layout (``torch/serialization.py``, ``_legacy_save``): magic number, protocol version, system, the object, the list of
storage keys; then for each key, in that order, 8 bytes with its number of elements and the elements themselves.
"""

from dataclasses import dataclass

from lora_cli.core.pickles.allowlist import Allowed
from lora_cli.core.pickles.machine import read_pickle
from lora_cli.core.pickles.opcodes import Effort
from lora_cli.core.pickles.values import Items, Storage, Value, item_bytes
from lora_cli.errors import FormatError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
COUNT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Legacy:
    """The object, the storages' keys in their order, and the offset at which the first one's count is."""

    value: Value
    keys: tuple[str, ...]
    stop: int


def is_legacy(data: bytes, allowed: Allowed, effort: Effort | None = None) -> bool:
    """Whether ``data`` begins with torch's magic number, as a pickle.

    Raises: as ``read_pickle`` does over the first pickle.
    """
    value, _ = read_pickle(data, allowed, 0, effort)
    return type(value) is int and value == MAGIC_NUMBER


def read_legacy(data: bytes, allowed: Allowed, effort: Effort | None = None) -> Legacy:
    """The five pickles at the beginning of ``data``.

    Raises: as ``read_pickle`` does, and ``FormatError`` when they are not what torch writes.
    """
    effort = effort or Effort()
    _, at = read_pickle(data, allowed, 0, effort)
    version, at = read_pickle(data, allowed, at, effort)
    system, at = read_pickle(data, allowed, at, effort)
    value, at = read_pickle(data, allowed, at, effort)
    keys, at = read_pickle(data, allowed, at, effort)
    if type(version) is not int or version != PROTOCOL_VERSION or not isinstance(system, Items):
        raise FormatError("is a torch file of an unknown version")
    if ("little_endian", False) in [(key, one) for key, one in system.pairs[:16] if isinstance(key, str)]:
        raise FormatError("was written by a big-endian machine", hint=BIG_ENDIAN_HINT)
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise FormatError("does not list each of its storages once")
    return Legacy(value, tuple(keys), at)


BIG_ENDIAN_HINT = "load it with torch, which swaps the bytes, and save it as safetensors"


def legacy_starts(keys: tuple[str, ...], stop: int, storages: dict[str, Storage]) -> tuple[dict[str, int], int]:
    """Where each storage's elements begin in the file, by key, and where the last one ends.

    ``storages`` are those that tensors refer to; each key needs one, or its size would not be known.

    Raises:
        FormatError: a storage is listed that no tensor refers to, or the other way round.
    """
    if set(keys) != storages.keys():
        raise FormatError("lists other storages than its tensors refer to")
    starts: dict[str, int] = {}
    for key in keys:
        starts[key] = stop + COUNT_BYTES
        stop = starts[key] + storages[key].numel * item_bytes(storages[key].dtype)
    return starts, stop
