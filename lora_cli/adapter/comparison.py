"""Two adapters, A and B, side by side: the fields of their configs and the tensors of their headers that differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import PEFT_FIELDS, raw_value


@dataclass(frozen=True, slots=True)
class OtherAdapter:
    """The adapter that is compared with."""

    name: str
    source: str
    revision: str


@dataclass(frozen=True, slots=True)
class Change:
    """A field of the configs, or a tensor by its dtype and shape, that differs; null in one that has none."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between the adapter that has this, which is A, and another one, which is B."""

    with_: OtherAdapter
    fields: tuple[Change, ...]
    tensors: tuple[Change, ...] | None
    """Null if the header of one adapter could not be read."""


def compare(a: Adapter, b: Adapter, other: OtherAdapter) -> Comparison:
    """How ``b``, which is ``other``, differs from ``a``; pure. No values are compared.

    PEFT's fields come first, where one that is left out has the default; then those that PEFT does not know.
    """
    fields, tensors = list[Change](), None
    if a.config is not None and b.config is not None:
        fields = [Change(name, raw_value(a.config, name), raw_value(b.config, name)) for name in PEFT_FIELDS]
        one, two = a.config.unknown, b.config.unknown
        fields += [Change(name, one.get(name), two.get(name)) for name in {**one, **two}]
    if all(one.weight_files and one.weights_error is None for one in (a, b)):
        ours, theirs = ({name: f"{it.dtype} {[*it.shape]}" for name, it in one.tensors.items()} for one in (a, b))
        changes = (Change(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs})
        tensors = tuple(one for one in changes if one.a != one.b)
    return Comparison(other, tuple(one for one in fields if _plain(one.a) != _plain(one.b)), tensors)


def _plain(value: Any) -> Any:
    """``value`` so that what means the same is equal: names in any order, a list and a tuple; but not true and 1."""
    if isinstance(value, tuple | list):
        return frozenset(value) if all(isinstance(one, str) for one in value) else [*map(_plain, value)]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return (bool, value) if isinstance(value, bool) else value
