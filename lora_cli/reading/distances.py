"""How far the updates of two adapters lie apart, module by module, from their bytes on this disk."""

import math

from lora_cli.core.comparison import ARITHMETIC, ROUNDOFF, SMALLEST, Distance, together
from lora_cli.core.factors import Factors
from lora_cli.errors import FormatError
from lora_cli.reading.adapter import Opened
from lora_cli.reading.factors import OVERFLOW, Loaded, load_factors, not_finite, updates_of
from lora_cli.reading.updates import Update, norm, relation


def distance_of(a: Opened, b: Opened, one: Factors, other: Factors) -> Distance | str:
    """How the update of ``other``, a module of ``b``, lies to that of ``one``, of ``a``; or why that cannot be told.

    Raises:
        LoraCliError: what the sources raise.
    """
    if (one.experts, one.d_out, one.d_in) != (other.experts, other.d_out, other.d_in):
        return f"it is {_shape(one)} in A and {_shape(other)} in B"
    try:
        first, second = load_factors(a.source, a.revision, one), load_factors(b.source, b.revision, other)
        if _same_bits(one, first, other, second):
            return _multiple(one, first, other.scaling)
        found = [
            _distance(one, other, *pair) for pair in zip(updates_of(one, first), updates_of(other, second), strict=True)
        ]
        if all(math.isfinite(part.distance) for part in found):
            return together(found)
        sides = {"A": not_finite(one, first), "B": not_finite(other, second)}
        return "; ".join(f"{side}: {why}" for side, why in sides.items() if why != OVERFLOW) or OVERFLOW
    except FormatError as error:
        return error.reason


def _distance(one: Factors, other: Factors, x: Update, y: Update) -> Distance:
    found = relation(x, y)
    return Distance(*found[:6], _rounding(one, x, found.spread), _rounding(other, y, found.other_spread))


def norm_of(a: Opened, one: Factors) -> float | None:
    """The norm of an update; None where it cannot be told. Raises as ``distance_of``."""
    try:
        found = math.hypot(*(norm(update) for update in updates_of(one, load_factors(a.source, a.revision, one))))
    except FormatError:
        return None
    return found if math.isfinite(found) else None


def _shape(one: Factors) -> str:
    return f"{f'{one.experts} x ' if one.experts > 1 else ''}[{one.d_out}, {one.d_in}]"


def _same_bits(one: Factors, first: Loaded, other: Factors, second: Loaded) -> bool:
    import numpy as np

    if (one.a.dtype, one.b.dtype, one.a_blocks, one.b_blocks) != (
        other.a.dtype, other.b.dtype, other.a_blocks, other.b_blocks,
    ) or (one.diagonal is None) != (other.diagonal is None):  # fmt: skip
        return False
    parts = ((first.a, second.a), (first.b, second.b), (first.diagonal, second.diagonal))
    return all(x is None or y is None or np.array_equal(x, y) for x, y in parts)


def _multiple(one: Factors, loaded: Loaded, other_scaling: float) -> Distance | str:
    """Of the same factors with two scales; where the scales are one too, the values may be what they like."""
    size = math.hypot(*(norm(Update(update.a, update.b, 1.0)) for update in updates_of(one, loaded)))
    if not math.isfinite(size) and one.scaling != other_scaling:
        return not_finite(one, loaded)
    first, second = (scaling * size for scaling in (one.scaling, other_scaling))
    apart = abs(second - first) if one.scaling != other_scaling else 0.0
    factor = other_scaling / one.scaling if one.scaling else 0.0
    inner = first * second if math.isfinite(size) else math.nan
    residual = 0.0 if one.scaling else abs(second)
    return Distance(abs(first), abs(second), inner, factor, apart, residual, 0.0, 0.0, identical=True)


def _rounding(factors: Factors, update: Update, spread: float) -> float:
    """What the rounding of the factors to their dtypes may change the update by (``core.comparison`` says how)."""
    import numpy as np

    total = spread * math.hypot(*(ROUNDOFF.get(tensor.dtype, 0.0) for tensor in (factors.a, factors.b)), ARITHMETIC)
    for tensor, dimension, beside in ((factors.a, factors.d_in, update.b), (factors.b, factors.d_out, update.a)):
        if least := SMALLEST.get(tensor.dtype):
            size = abs(update.scaling) * float(np.linalg.norm(beside))
            total = math.hypot(total, least * math.sqrt(dimension) * size)
    return total
