"""What a pickle's opcodes add up to: descriptions of values. No class of the pickle is ever imported or called."""

from dataclasses import dataclass
from typing import Any

from lora_cli.core import parse

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
