"""That an adapter was written anew and does what it did: ``s · B @ A`` of every module, before and after.

The proof takes the scales from the config that was written, as PEFT reads it, and the factors from the file, and knows
nothing of the recipe but which rows of which old module stand where.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lora_cli.core.json_schema import EXCLUDED, Count, NonNegative
from lora_cli.core.targets import scales
from lora_cli.reading.tensor_values import decode
from lora_cli.reading.updates import Update, distance, norm
from lora_cli.repair import Draft, Factors

if TYPE_CHECKING:
    from lora_cli.validation.making import Originals

ROUNDING = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-9}
"""Half the distance from 1 to the next number of each dtype: what one rounding changes at most."""

RECKONING = 1e-12
"""What sums in float64 leave."""


@dataclass(frozen=True, slots=True)
class Sameness:
    """The comparison of every update before and after the repair."""

    modules: Count
    rewritten: Count
    """The number of modules whose bits differ from before."""
    worst_change: NonNegative
    """The largest change of an update, relative to the norm of that update."""
    allowed_change: NonNegative
    """The change there that rounding to its dtype explains."""
    worst_module: str | None
    holds: bool = field(default=True, metadata=EXCLUDED)


def sameness(new: Draft, originals: "Originals", rewritten: "Originals") -> Sameness:
    """Compares each update of ``new`` as it was and as it was written.

    Raises:
        LoraCliError: what reading raises.
    """
    config, plain = rewritten.one.adapter.config, [module for module, one in new.factors.items() if one.plain]
    assert config is not None
    scaling = {module: scale.scaling for module, scale in scales(config, plain).items()}
    worst = Sameness(len(new.factors), 0, 0.0, 0.0, None)
    moved = 0
    for module, one in new.factors.items():
        if not one.plain or _is_untouched(one, new.before.get(module), scaling[module]):
            continue
        moved += 1
        for change, allowed in _changes(module, one, scaling[module], new, originals, rewritten):
            holds = change <= allowed
            if (not holds, change) > (not worst.holds, worst.worst_change):
                worst = Sameness(0, 0, change, allowed, module, holds)
    return replace(worst, modules=len(new.factors), rewritten=moved)


def _is_untouched(one: Factors, before: Factors | None, scaling: float) -> bool:
    untouched = one.a.untouched is not None and one.b.untouched is not None
    same = before is not None and untouched and (one.a, one.b) == (before.a, before.b)
    return same and before is not None and math.isclose(before.scaling, scaling, rel_tol=RECKONING)


def _changes(
    module: str, one: Factors, scaling: float, new: Draft, originals: "Originals", rewritten: "Originals"
) -> Iterator[tuple[float, float]]:
    """For each old module whose rows stand in this one: how much they changed, and what rounding explains."""
    name_a, name_b = one.named(module)
    a, b = decode(rewritten.bits(name_a), one.a.dtype), decode(rewritten.bits(name_b), one.b.dtype)
    if not one.b.blocks:
        yield norm(Update(a, b, scaling)), 0.0
        return
    sources = {before.b.blocks[0].tensor: before for before in new.before.values() if before.plain}
    for block in one.b.blocks:
        old = sources[block.tensor]
        top, height = block.at[0], block.rows[1] - block.rows[0]
        was = Update(
            decode(originals.bits(old.a.blocks[0].tensor), old.a.source),
            decode(originals.bits(block.tensor), old.b.source)[slice(*block.rows)],
            old.scaling,
        )
        now = Update(a, b[top : top + height], scaling)
        yield _relative(was, now, one)


def _relative(was: Update, now: Update, one: Factors) -> tuple[float, float]:
    if not (np.isfinite(now.b).all() and np.isfinite(now.a).all()):
        return math.inf, 0.0
    size = norm(was)
    if size == 0:
        return norm(now), 0.0
    lengths = abs(was.scaling) * float(np.linalg.norm(was.a.astype("f8")) * np.linalg.norm(was.b.astype("f8")))
    rounding = sum(ROUNDING[made.dtype] for made in (one.a, one.b) if made.reckoned) + RECKONING
    return distance(was, now) / size, rounding * lengths / size
