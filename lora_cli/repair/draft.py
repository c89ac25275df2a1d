"""An adapter while it is rewritten: the updates of its modules, and its config.

No step changes ``scaling · B @ A`` of a module.

A tensor that is to be written is a recipe over the original tensors: nothing is read or computed here. Every repair of
a factor places blocks of old matrices in a new one and multiplies them by a number: a packed module is split, three
modules are packed into one, a scale is moved into B. A rank is padded by another ``shape``, and a tensor is rounded by
another ``dtype``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import PEFT_PREFIX
from lora_cli.adapter.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.base.base_model import BaseModel
from lora_cli.engines.profile import Profile
from lora_cli.json_schema import Count

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """``factor`` times the ``rows`` and ``columns`` (half-open) of ``tensor``, placed ``at`` a row and a column."""

    tensor: str
    rows: Span
    columns: Span
    at: Span = (0, 0)
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class TensorRecipe:
    """A tensor of ``dtype`` and ``shape``: ``blocks`` on zeros. A tensor that is not a matrix is treated as one.

    ``source`` is the dtype that the blocks' tensors have.
    """

    dtype: str
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    source: str

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8

    @property
    def untouched(self) -> str | None:
        """The name of the original tensor whose first rows, or all, it is bit by bit; None if there is none."""
        if self.dtype != self.source or len(self.blocks) != 1:
            return None
        block = self.blocks[0]
        return block.tensor if block == _all(block.tensor, self.shape) else None

    @property
    def is_computed(self) -> bool:
        """Whether its values differ from the original ones: they are scaled, or rounded to another dtype."""
        return self.dtype != self.source or any(block.factor != 1 for block in self.blocks)


def as_matrix(shape: tuple[int, ...]) -> Span:
    """Rows and columns of a tensor in recipes: its first dimension, and the product of the others."""
    return math.prod(shape[:1]), math.prod(shape[1:])


def _all(tensor: str, shape: tuple[int, ...]) -> Block:
    rows, columns = as_matrix(shape)
    return Block(tensor, (0, rows), (0, columns))


def copy_of(tensor: TensorInfo) -> TensorRecipe:
    """The tensor as it is."""
    return TensorRecipe(tensor.dtype, tensor.shape, (_all(tensor.name, tensor.shape),), tensor.dtype)


def zeros(dtype: str, shape: Span) -> TensorRecipe:
    """A matrix of zeros."""
    return TensorRecipe(dtype, shape, (), dtype)


def scaled(recipe: TensorRecipe, factor: float) -> TensorRecipe:
    """``factor`` times a matrix."""
    if factor == 1:
        return recipe
    return replace(recipe, blocks=tuple(replace(block, factor=block.factor * factor) for block in recipe.blocks))


def rows_of(recipe: TensorRecipe, start: int, stop: int) -> TensorRecipe:
    """Rows ``start`` to ``stop`` of a matrix."""
    kept = []
    for block in recipe.blocks:
        top = block.at[0]
        first, last = max(start, top), min(stop, top + block.rows[1] - block.rows[0])
        if first < last:
            rows = (block.rows[0] + first - top, block.rows[0] + last - top)
            kept.append(replace(block, rows=rows, at=(first - start, block.at[1])))
    return replace(recipe, shape=(stop - start, recipe.shape[1]), blocks=tuple(kept))


def assembled(parts: Sequence[TensorRecipe], places: Sequence[Span], shape: Span) -> TensorRecipe:
    """One matrix of ``shape``, with each of ``parts`` at its place (row, column), and zeros elsewhere."""
    blocks = tuple(
        replace(block, at=(block.at[0] + top, block.at[1] + left))
        for part, (top, left) in zip(parts, places, strict=True)
        for block in part.blocks
    )
    return replace(parts[0], shape=shape, blocks=blocks)


@dataclass(frozen=True, slots=True)
class UpdateRecipe:
    """One module's update ``scaling · b @ a``, as ``LoraPair`` has its shapes.

    ``plain`` is False where the factors are no two matrices of one rank: of fused experts, whose ranks are interleaved,
    or in blocks. They are written as they are.
    """

    a: TensorRecipe
    b: TensorRecipe
    scaling: float
    embedding: bool = False
    plain: bool = True

    @property
    def r(self) -> int:
        """Its rank."""
        return self.a.shape[0]

    def named(self, module: str) -> dict[str, TensorRecipe]:
        """A and B by the names that PEFT gives those of ``module`` on disk: A first."""
        a, b = ("lora_embedding_A", "lora_embedding_B") if self.embedding else ("lora_A.weight", "lora_B.weight")
        return {f"{PEFT_PREFIX}{module}.{a}": self.a, f"{PEFT_PREFIX}{module}.{b}": self.b}


Step = Literal["files", "fields", "names", "copies", "places", "zeros", "scales", "targets", "base", "dtype"]
"""The steps of a repair, in their order; the JSON Schema of ``repair`` lists them."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was repaired."""

    step: Step
    what: str
    why: str
    modules: Count = 0
    """The number of modules that changed; 0 for the config or the files."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that cannot be repaired without changing what the adapter does."""

    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Draft:
    """The adapter to be written, after some of the steps.

    ``config`` is the JSON object, ``factors`` are the modules' updates by path, ``before`` the same as they were read.
    ``others`` are all other tensors by the name that is written. If there are ``refusals``, nothing is written.
    """

    config: Mapping[str, Any]
    factors: Mapping[str, UpdateRecipe]
    others: Mapping[str, TensorRecipe] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    before: Mapping[str, UpdateRecipe] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, TensorRecipe]:
        """Every tensor by the name that is written."""
        named = (one.named(module) for module, one in self.factors.items())
        return {**{name: recipe for pair in named for name, recipe in pair.items()}, **self.others}

    def changed(self, step: Step, what: str, why: str, modules: int = 0, **fields: Any) -> "Draft":
        """The draft with other ``fields`` and one more change."""
        return replace(self, changes=(*self.changes, Change(step, what, why, modules)), **fields)

    def refused(self, what: str, hint: str) -> "Draft":
        """The draft with one more reason not to write it."""
        return replace(self, refusals=(*self.refusals, Refusal(what, hint)))


@dataclass(frozen=True, slots=True)
class RepairContext:
    """The adapter to repair, the engine, and the base that it serves (None: unknown).

    ``adapter`` is as it was read. ``config`` is its config as JSON, with fields of the right types, and ``parsed`` the
    same as values. ``dtype`` and ``base_name`` are as the user asked, None for no change. ``copies`` maps the saved
    weights that were compared with the base's to whether they are equal.
    """

    adapter: Adapter
    config: Mapping[str, Any]
    parsed: LoraConfig
    profile: Profile
    base: BaseModel | None = None
    dtype: str | None = None
    base_name: str | None = None
    copies: Mapping[str, bool] = field(default_factory=dict)

    def has_row(self, *features: str) -> bool:
        """Whether the engine's profile has a row for one of these features."""
        named = {row.feature for row in self.profile.rows}
        return any(feature in named for feature in features)

    @property
    def engine(self) -> str:
        """The engine's title, with its version."""
        return self.profile.title
