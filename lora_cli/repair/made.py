"""A tensor that is to be written, as a recipe over those that are there: nothing is read or reckoned here.

Every repair of a factor is a matter of where blocks of old matrices stand in a new one, and times which number: a rank
is padded, a packed module split, three modules packed into one, a scale moved into B.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lora_cli.core.safetensors import DTYPE_BITS, TensorInfo

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """``factor`` times the ``rows`` and ``columns`` (half-open) of a tensor, to stand ``at`` a row and a column."""

    tensor: str
    rows: Span
    columns: Span
    at: Span = (0, 0)
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor of ``dtype`` and ``shape``. A matrix is ``blocks`` on zeros; anything else is the ``whole`` of another.

    ``source`` is the dtype that the blocks' tensors have.
    """

    dtype: str
    shape: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    whole: str | None = None
    source: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8

    @property
    def untouched(self) -> str | None:
        """The name of the tensor that it is, bit by bit; None when it is not any."""
        if self.dtype != self.source:
            return None
        if self.whole is not None or len(self.blocks) != 1:
            return self.whole
        block = self.blocks[0]
        return block.tensor if block == _all(block.tensor, self.shape) else None

    @property
    def reckoned(self) -> bool:
        """Whether its values are others than those that are there: scaled, or rounded to another dtype."""
        return self.dtype != self.source or any(block.factor != 1 for block in self.blocks)


def _all(tensor: str, shape: tuple[int, ...]) -> Block:
    return Block(tensor, (0, shape[0]), (0, shape[1]))


def copy_of(tensor: TensorInfo) -> Made:
    """The tensor as it is."""
    if len(tensor.shape) != 2:
        return Made(tensor.dtype, tensor.shape, (), tensor.name, tensor.dtype)
    return Made(tensor.dtype, tensor.shape, (_all(tensor.name, tensor.shape),), None, tensor.dtype)


def zeros(dtype: str, shape: Span) -> Made:
    """A matrix of zeros."""
    return Made(dtype, shape, (), None, dtype)


def scaled(made: Made, factor: float) -> Made:
    """``factor`` times a matrix."""
    if factor == 1:
        return made
    return replace(made, blocks=tuple(replace(block, factor=block.factor * factor) for block in made.blocks))


def cast(made: Made, dtype: str) -> Made:
    """The same in another dtype, rounded to the nearest."""
    return replace(made, dtype=dtype)


def padded(made: Made, shape: Span) -> Made:
    """A matrix with zeros below and to the right of it."""
    return replace(made, shape=shape)


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


def stacked(parts: Sequence[Made]) -> Made:
    """Matrices of one width, one below the other."""
    return _placed(parts, [(sum(part.shape[0] for part in parts[:n]), 0) for n in range(len(parts))])


def diagonal(parts: Sequence[Made], height: int, tops: Sequence[int]) -> Made:
    """Matrices side by side in a matrix of ``height`` rows, each with its first row at its ``tops``."""
    lefts = [sum(part.shape[1] for part in parts[:n]) for n in range(len(parts))]
    made = _placed(parts, list(zip(tops, lefts, strict=True)))
    return replace(made, shape=(height, sum(part.shape[1] for part in parts)))


def _placed(parts: Sequence[Made], places: Sequence[Span]) -> Made:
    blocks = tuple(
        replace(block, at=(block.at[0] + top, block.at[1] + left))
        for part, (top, left) in zip(parts, places, strict=True)
        for block in part.blocks
    )
    shape = (sum(part.shape[0] for part in parts), max(part.shape[1] for part in parts))
    return replace(parts[0], shape=shape, blocks=blocks)
