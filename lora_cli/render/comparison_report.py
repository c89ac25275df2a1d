"""What the JSON document of ``inspect --diff`` has for one adapter."""

from dataclasses import dataclass, field
from typing import Any

from lora_cli.core.comparison import Differing, Relation, Within
from lora_cli.core.config_changes import Effect
from lora_cli.render.json_schema import INLINE, Count


@dataclass(frozen=True, slots=True)
class OtherAdapter:
    """The adapter that is compared with."""

    name: str
    source: str
    revision: str


@dataclass(frozen=True, slots=True)
class UpdateDistance:
    """How two updates differ, in numbers; all are null where the updates were not compared."""

    norm_a: float | None
    """The norm of A's update; all numbers are null where the updates were not compared."""
    norm_b: float | None
    cosine: float | None
    difference: float | None
    """The norm of the difference, as a share of A's norm."""
    factor: float | None
    """The multiple of A's update that is nearest to B's update."""
    rounding: float | None
    """The difference that the rounding of both dtypes explains, as a share of A's norm."""
    identical: bool | None
    """Whether all factors have the same bits."""


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field of the configs that differs."""

    field: str
    effect: Effect
    a: Any
    b: Any
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleNorm:
    """A module that one of the adapters has, with the norm of its update."""

    module: str
    norm: float | None


@dataclass(frozen=True, slots=True)
class ModuleSide:
    """One adapter's factors of a module."""

    r: int | None
    scaling: float | None
    lora_A: tuple[Count, ...] | None  # noqa: N815 - PEFT's name
    """The shape."""
    lora_B: tuple[Count, ...] | None  # noqa: N815 - PEFT's name
    """The shape."""
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleDifference:
    """A module that both adapters have."""

    module: str
    path: str
    word: Relation
    reason: str
    differing: tuple[Differing, ...]
    a: ModuleSide
    b: ModuleSide
    distance: UpdateDistance = field(metadata=INLINE)


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A tensor that is saved beside the factors."""

    name: str
    part: str
    within: Within
    equal: bool
    difference: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """The adapter, which is A, compared with another one, which is B."""

    with_: OtherAdapter
    """The adapter B. A is the adapter that has this comparison."""
    word: Relation
    """What B is to A."""
    reason: str
    distance: UpdateDistance = field(metadata=INLINE)
    fields: tuple[FieldDifference, ...]
    """Fields of the configs that differ."""
    only_a: tuple[ModuleNorm, ...]
    only_b: tuple[ModuleNorm, ...]
    modules: tuple[ModuleDifference, ...]
    tensors: tuple[TensorDifference, ...]
    """What is saved beside the factors."""
    unread: str
    hint: str
