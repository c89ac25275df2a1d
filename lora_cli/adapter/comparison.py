"""Two adapters, A and B, side by side: the fields of their configs and the tensors of their headers that differ."""

from collections.abc import Iterator
from dataclasses import dataclass

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import FieldChange, config_changes
from lora_cli.json_schema import Count


@dataclass(frozen=True, slots=True)
class OtherAdapter:
    """The adapter that is compared with."""

    name: str
    source: str
    revision: str


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
    return Comparison(other, config_changes(a.config, b.config), tuple(_changed(a, b)) if is_read else None)


def _changed(a: Adapter, b: Adapter) -> Iterator[TensorChange]:
    for name in dict.fromkeys((*a.tensors, *b.tensors)):
        found = (one.tensors.get(name) for one in (a, b))
        ours, theirs = (None if tensor is None else Stored(tensor.dtype, tensor.shape) for tensor in found)
        if ours != theirs:
            yield TensorChange(name, ours, theirs)
