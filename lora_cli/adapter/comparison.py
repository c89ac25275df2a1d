"""Two adapters, A and B, side by side: the fields of their configs and the tensors of their headers that differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import PEFT_FIELDS, raw_value
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
    """A tensor as its header has it; its dtype is named as safetensors names it."""

    dtype: str
    shape: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor whose dtype or shape differs; a or b is null if that adapter has no tensor of this name."""

    name: str
    a: Stored | None
    b: Stored | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between the adapter that has this, which is A, and another one, which is B."""

    with_: OtherAdapter
    fields: tuple[FieldChange, ...]
    tensors: tuple[TensorChange, ...] | None
    """Null if the header of one adapter could not be read."""


def compare(a: Adapter, b: Adapter, other: OtherAdapter) -> Comparison:
    """How ``b``, which is ``other``, differs from ``a``; pure. No values are compared.

    PEFT's fields come first, where one that is left out has the default; then those that PEFT does not know.
    """
    both, tensors = list[tuple[str, Any, Any]](), None
    if a.config is not None and b.config is not None:
        both = [(name, raw_value(a.config, name), raw_value(b.config, name)) for name in PEFT_FIELDS]
        one, two = a.config.unknown, b.config.unknown
        both += [(name, one.get(name), two.get(name)) for name in {**one, **two}]
    if all(one.weight_files and one.weights_error is None for one in (a, b)):
        ours, theirs = ({name: Stored(one.dtype, one.shape) for name, one in it.tensors.items()} for it in (a, b))
        changes = (TensorChange(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs})
        tensors = tuple(one for one in changes if one.a != one.b)
    return Comparison(other, tuple(FieldChange(*one) for one in both if _plain(one[1]) != _plain(one[2])), tensors)


def _plain(value: Any) -> Any:
    """``value`` so that what means the same is equal: names in any order, a list and a tuple; but not true and 1."""
    if isinstance(value, tuple | list):
        return frozenset(value) if all(isinstance(one, str) for one in value) else [*map(_plain, value)]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return (bool, value) if isinstance(value, bool) else value
