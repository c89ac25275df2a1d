"""Two adapters, A and B, side by side: the fields of their configs and the tensors of their headers that differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import PEFT_FIELDS, LoraConfig, raw_value
from lora_cli.json_schema import Count


@dataclass(frozen=True, slots=True)
class OtherAdapter:
    """The adapter that is compared with."""

    name: str
    source: str
    revision: str


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field of the configs that differs: ``a`` and ``b`` are its values, null if a config has no such field."""

    field: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as its header has it."""

    dtype: str
    """As safetensors names it."""
    shape: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor whose dtype or shape differs; a or b is null if that adapter has no tensor of this name."""

    name: str
    a: Stored | None
    b: Stored | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The adapter, which is A, compared with another one, which is B."""

    with_: OtherAdapter
    """The adapter B. A is the adapter that has this comparison."""
    fields: tuple[FieldChange, ...]
    """Fields of the configs that differ."""
    tensors: tuple[TensorChange, ...] | None
    """Tensors that differ; null if the header of one adapter could not be read."""


def compare(a: Adapter, b: Adapter, other: OtherAdapter) -> Comparison:
    """How ``b``, which is ``other``, differs from ``a``; pure. No values are compared."""
    is_read = all(one.weight_files and one.weights_error is None for one in (a, b))
    fields = _fields(a.config, b.config) if a.config is not None and b.config is not None else ()
    return Comparison(other, tuple(fields), tuple(_changed(a, b)) if is_read else None)


def _fields(a: LoraConfig, b: LoraConfig) -> Iterator[FieldChange]:
    """PEFT's fields in their order, where one that is left out has the default; then those that PEFT does not know."""
    both = [(name, raw_value(a, name), raw_value(b, name)) for name in PEFT_FIELDS]
    both += [(name, a.unknown.get(name), b.unknown.get(name)) for name in {**a.unknown, **b.unknown}]
    return (FieldChange(name, one, other) for name, one, other in both if _plain(one) != _plain(other))


def _plain(value: Any) -> Any:
    """``value`` so that what means the same is equal: names in any order, a list and a tuple; but not true and 1."""
    if isinstance(value, tuple | list):
        return frozenset(value) if all(isinstance(one, str) for one in value) else [*map(_plain, value)]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return (bool, value) if isinstance(value, bool) else value


def _changed(a: Adapter, b: Adapter) -> Iterator[TensorChange]:
    for name in dict.fromkeys((*a.tensors, *b.tensors)):
        found = (one.tensors.get(name) for one in (a, b))
        ours, theirs = (None if tensor is None else Stored(tensor.dtype, tensor.shape) for tensor in found)
        if ours != theirs:
            yield TensorChange(name, ours, theirs)
