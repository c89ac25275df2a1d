"""An adapter while it is rewritten: what its modules' updates are, and what config says so.

The one thing that holds from the first step to the last: a module's ``scaling · B @ A`` is what it was trained to.

A tensor that is to be written is a recipe over those that are there: nothing is read or computed here. Every repair of
a factor is a matter of where blocks of old matrices are in a new one, and times which number: a rank is padded, a
packed module split, three modules packed into one, a scale moved into B. A rank is padded by another ``shape``, and a
tensor is rounded by another ``dtype``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.json_schema import Count
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.core.tensor_keys import PEFT_PREFIX
from lora_cli.engines.profile import Profile

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """``factor`` times the ``rows`` and ``columns`` (half-open) of a tensor, to be ``at`` a row and a column."""

    tensor: str
    rows: Span
    columns: Span
    at: Span = (0, 0)
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor of ``dtype`` and ``shape``: ``blocks`` on zeros. Anything but a matrix is taken for one.

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
        """The name of the tensor that it is, bit by bit; None when it is not any."""
        if self.dtype != self.source or len(self.blocks) != 1:
            return None
        block = self.blocks[0]
        return block.tensor if block == _all(block.tensor, self.shape) else None

    @property
    def reckoned(self) -> bool:
        """Whether its values are others than those that are there: scaled, or rounded to another dtype."""
        return self.dtype != self.source or any(block.factor != 1 for block in self.blocks)


def as_matrix(shape: tuple[int, ...]) -> Span:
    """Rows and columns of a tensor as recipes count them: of one with other dimensions, the first and all the rest."""
    return math.prod(shape[:1]), math.prod(shape[1:])


def _all(tensor: str, shape: tuple[int, ...]) -> Block:
    rows, columns = as_matrix(shape)
    return Block(tensor, (0, rows), (0, columns))


def copy_of(tensor: TensorInfo) -> Made:
    """The tensor as it is."""
    return Made(tensor.dtype, tensor.shape, (_all(tensor.name, tensor.shape),), tensor.dtype)


def zeros(dtype: str, shape: Span) -> Made:
    """A matrix of zeros."""
    return Made(dtype, shape, (), dtype)


def scaled(made: Made, factor: float) -> Made:
    """``factor`` times a matrix."""
    if factor == 1:
        return made
    return replace(made, blocks=tuple(replace(block, factor=block.factor * factor) for block in made.blocks))


def rows_of(made: Made, start: int, stop: int) -> Made:
    """Rows ``start`` to ``stop`` of a matrix."""
    kept = []
    for block in made.blocks:
        top = block.at[0]
        first, last = max(start, top), min(stop, top + block.rows[1] - block.rows[0])
        if first < last:
            rows = (block.rows[0] + first - top, block.rows[0] + last - top)
            kept.append(replace(block, rows=rows, at=(first - start, block.at[1])))
    return replace(made, shape=(stop - start, made.shape[1]), blocks=tuple(kept))


def together(parts: Sequence[Made], places: Sequence[Span], shape: Span) -> Made:
    """Matrices in one of ``shape``, each with its first element at a row and a column of it, and zeros elsewhere."""
    blocks = tuple(
        replace(block, at=(block.at[0] + top, block.at[1] + left))
        for part, (top, left) in zip(parts, places, strict=True)
        for block in part.blocks
    )
    return replace(parts[0], shape=shape, blocks=blocks)


@dataclass(frozen=True, slots=True)
class Factors:
    """One module's update ``scaling · b @ a``, as ``LoraPair`` has its shapes.

    ``plain`` is False where the factors are no two matrices of one rank: of fused experts, whose ranks are interleaved,
    or in blocks. They are written as they are.
    """

    a: Made
    b: Made
    scaling: float
    embedding: bool = False
    plain: bool = True

    @property
    def r(self) -> int:
        """Its rank."""
        return self.a.shape[0]

    def named(self, module: str) -> dict[str, Made]:
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
    """What will be written, so far.

    ``config`` is the JSON object, ``factors`` are the modules' updates by their path, ``before`` these as they were
    read, ``others`` all other tensors by the name under which they will be written. With ``refusals`` nothing is.
    """

    config: Mapping[str, Any]
    factors: Mapping[str, Factors]
    others: Mapping[str, Made] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    before: Mapping[str, Factors] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Made]:
        """Every tensor by the name under which it will be written."""
        named = (one.named(module) for module, one in self.factors.items())
        return {**{name: made for pair in named for name, made in pair.items()}, **self.others}

    def changed(self, step: Step, what: str, why: str, modules: int = 0, **fields: Any) -> "Draft":
        """The draft with other ``fields``, and a note of what changed."""
        return replace(self, changes=(*self.changes, Change(step, what, why, modules)), **fields)

    def refused(self, what: str, hint: str) -> "Draft":
        """The draft with one more reason not to write it."""
        return replace(self, refusals=(*self.refusals, Refusal(what, hint)))


@dataclass(frozen=True, slots=True)
class Aim:
    """What a repair is for: the engine, how it is deployed, and the base that it serves (None: unknown).

    ``adapter`` is as it was read, ``parsed`` its config. ``dtype`` and ``base_name`` are what the user asked for, None
    to leave them. ``copies`` maps tensors that stand for a weight of the base to whether they equal it; what is not
    in it was not compared.
    """

    adapter: Adapter
    parsed: LoraConfig
    profile: Profile
    base: BaseModel | None = None
    tp: int = 1
    dtype: str | None = None
    base_name: str | None = None
    copies: Mapping[str, bool] = field(default_factory=dict)

    def has(self, *features: str) -> bool:
        """Whether the engine's profile has a row for one of these features."""
        named = {row.feature for row in self.profile.rows}
        return any(feature in named for feature in features)

    @property
    def engine(self) -> str:
        """How the engine writes itself."""
        return self.profile.title
