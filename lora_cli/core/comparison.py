"""Two adapters, A and B, side by side: what differs in words and headers, and the distance of their updates.

Only the updates ``s * B @ A`` count, whatever the rank or the basis of their factors. A module's two updates are

- ``equal`` where they differ by no more than the rounding of both adapters' dtypes explains. To round the factors
  changes the update by about ``u * sqrt(2 * sum_j s² |b_j|² |a_j|²)`` over the ranks j, ``u`` being the unit roundoff
  (2**-8 for bfloat16): the errors of single elements are independent, at most u of each, and 0.4 u in the mean;
- ``scaled`` where that is so of B's and a multiple of A's, its ``factor``;
- ``related`` where their cosine is at least ``KINSHIP``, a half, upwards or downwards: one was most likely trained on
  from the other;
- ``unrelated`` otherwise: also two trainings for one task from different seeds.

Of whole adapters the same is said of all their updates as one vector, in which those of missing modules are zero;
single modules that are equal, or multiples, make them ``related`` whatever the others are.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lora_cli.core.json_schema import EXCLUDED, INLINE, Count
from lora_cli.core.lora_config import FieldChange
from lora_cli.core.module_grid import module_positions
from lora_cli.core.text import counted

Relation = Literal["equal", "scaled", "related", "unrelated", "unknown"]
Differing = Literal["rank", "scaling", "dtype", "shape"]
Within = Literal["a", "b", "both"]

WORDS: tuple[Relation, ...] = ("unknown", "unrelated", "related", "scaled", "equal")

ROUNDOFF = {
    "F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8,
    "F8_E4M3": 2.0**-4, "F8_E4M3FNUZ": 2.0**-4, "F8_E5M2": 2.0**-3, "F8_E5M2FNUZ": 2.0**-3, "F8_E8M0": 2.0**-1,
}  # fmt: skip
"""The unit roundoff of each dtype: the most that rounding changes a value by, as a share of it."""

SMALLEST = {"F16": 2.0**-25, "F8_E4M3": 2.0**-10, "F8_E4M3FNUZ": 2.0**-11, "F8_E5M2": 2.0**-17, "F8_E5M2FNUZ": 2.0**-18}
"""The most that rounding changes the smallest values of a dtype by, where such values are in use."""

KINSHIP = 0.5
"""The cosine from which two updates are kin. Measured on SmolLM2-135M (r=8 on q, v, o and down, AdamW, 3e-3): an
adapter and what it was trained on to have 0.85 to 0.99; two trainings on the same lines from different seeds 0.26 and
0.39; trainings on other lines at most 0.01, from the same seed too, and independent random updates some
``1/sqrt(d_out * d_in)``."""

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

ARITHMETIC = 1e-12
"""What our own arithmetic in float64 may leave, as a share of the update."""


@dataclass(frozen=True, slots=True)
class Side:
    """One adapter's factors of a module."""

    r: int | None
    scaling: float | None
    lora_A: tuple[Count, ...] | None  # noqa: N815 - PEFT's name
    """The shape."""
    lora_B: tuple[Count, ...] | None  # noqa: N815 - PEFT's name
    """The shape."""
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Distance:
    """How a module's two updates compare, in numbers.

    ``distance`` is the norm of their difference, ``residual`` that of B's less ``factor`` times A's, ``rounding`` and
    ``other_rounding`` what the rounding of A's and of B's factors may be in either. ``identical`` factors have the same
    bits.
    """

    norm: float
    other_norm: float
    inner: float
    factor: float
    distance: float
    residual: float
    rounding: float
    other_rounding: float
    identical: bool = False

    @property
    def cosine(self) -> float | None:
        """None if an update is zero, or not finite."""
        both = self.norm * self.other_norm
        return max(-1.0, min(1.0, self.inner / both)) if both and math.isfinite(both) else None

    @property
    def difference(self) -> float | None:
        """The distance as a share of A's norm; None if that is zero, or not finite."""
        return self.distance / self.norm if self.norm and math.isfinite(self.norm) else None

    @property
    def explained(self) -> float:
        """The distance that rounding explains."""
        return math.hypot(self.rounding, self.other_rounding, ARITHMETIC * self.norm)

    @property
    def word(self) -> Relation:
        """What the two updates are to each other."""
        if self.identical and self.distance == 0:
            return "equal"
        if not math.isfinite(self.norm) or not math.isfinite(self.other_norm):
            return "unknown"
        if self.distance <= self.explained:
            return "equal"
        explained = math.hypot(self.factor * self.rounding, self.other_rounding, ARITHMETIC * self.other_norm)
        if self.norm and self.other_norm and self.residual <= explained:
            return "scaled"
        return "related" if abs(self.cosine or 0.0) >= KINSHIP else "unrelated"


@dataclass(frozen=True, slots=True)
class UpdateDistance:
    """How two updates differ, in numbers; all are null if the updates were not compared."""

    norm_a: float | None
    """The norm of A's update; all numbers are null if the updates were not compared."""
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


def update_distance(one: Distance | None) -> UpdateDistance:
    """The numbers of ``one``; relative ones are shares of A's norm."""
    if one is None:
        return UpdateDistance(None, None, None, None, None, None, None)
    return UpdateDistance(
        norm_a=one.norm,
        norm_b=one.other_norm,
        cosine=one.cosine,
        difference=one.difference,
        factor=one.factor if one.norm else None,
        rounding=one.explained / one.norm if one.norm else None,
        identical=one.identical,
    )


@dataclass(frozen=True, slots=True)
class ModuleComparison:
    """A module that both adapters have."""

    module: str
    path: str
    word: Relation
    """What the two updates are to each other."""
    reason: str
    """Why the updates were not compared; empty if they were."""
    differing: tuple[Differing, ...]
    """What differs between config and header of the two."""
    a: Side
    b: Side
    distance: UpdateDistance = field(metadata=INLINE)
    update: Distance | None = field(metadata=EXCLUDED)
    """What ``distance`` is made from; None if the updates were not compared."""


def compare_module(module: str, path: str, a: Side, b: Side, update: Distance | str) -> ModuleComparison:
    """The comparison of one module; ``update`` is the distance of the two updates, or why that is not known."""
    distance, reason = (None, update) if isinstance(update, str) else (update, "")
    word = "unknown" if distance is None else distance.word
    found: dict[Differing, bool] = {
        "rank": a.r != b.r,
        "scaling": a.scaling != b.scaling,
        "dtype": a.dtypes != b.dtypes,
        "shape": _outer(a) != _outer(b),
    }
    differing = tuple(name for name, differs in found.items() if differs)
    return ModuleComparison(module, path, word, reason, differing, a, b, update_distance(distance), distance)


def _outer(side: Side) -> tuple[tuple[int, ...] | None, int | None]:
    return side.lora_A and side.lora_A[1:], side.lora_B[0] if side.lora_B else None


@dataclass(frozen=True, slots=True)
class TensorComparison:
    """A tensor that is saved next to the factors."""

    name: str
    part: str
    within: Within
    equal: bool
    difference: float | None
    """The norm of the difference, as a share of A's norm; null if it is not known."""
    reason: str = ""
    """Why it is not known."""


@dataclass(frozen=True, slots=True)
class ModuleNorm:
    """A module that one of the adapters has, with the norm of its update."""

    module: str
    norm: float | None


@dataclass(frozen=True, slots=True)
class OtherAdapter:
    """The adapter that is compared with."""

    name: str
    source: str
    revision: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The adapter, which is A, compared with another one, which is B."""

    with_: OtherAdapter
    """The adapter B. A is the adapter that has this comparison."""
    word: Relation
    """What B is to A."""
    reason: str
    distance: UpdateDistance = field(metadata=INLINE)
    fields: tuple[FieldChange, ...]
    """Fields of the configs that differ."""
    only_a: tuple[ModuleNorm, ...]
    only_b: tuple[ModuleNorm, ...]
    modules: tuple[ModuleComparison, ...]
    tensors: tuple[TensorComparison, ...]
    """What is saved next to the factors."""
    unread: str
    """Why values were not compared, or empty."""
    hint: str


def combined(parts: Sequence[Distance]) -> Distance:
    """Several updates as one vector; the parts' residuals are computed again with the one factor."""
    norm, other = math.hypot(*(one.norm for one in parts)), math.hypot(*(one.other_norm for one in parts))
    inner = math.fsum(one.inner for one in parts)
    factor = inner / norm**2 if norm else 0.0
    return Distance(
        norm, other, inner, factor,
        math.hypot(*(one.distance for one in parts)),
        math.hypot(*(math.hypot(one.residual, (one.factor - factor) * one.norm) for one in parts)),
        math.hypot(*(one.rounding for one in parts)),
        math.hypot(*(one.other_rounding for one in parts)),
        all(one.identical for one in parts),
    )  # fmt: skip


def one_sided(norm: float, *, in_a: bool) -> Distance:
    """A module that one adapter alone has: the other's update is zero."""
    return Distance(norm if in_a else 0.0, 0.0 if in_a else norm, 0.0, 0.0, norm, 0.0 if in_a else norm, 0, 0)


def with_relation(one: Comparison) -> Comparison:
    """``one`` with its total, its word and the reason; pure."""
    if one.unread:
        return replace(one, word="unknown", reason=f"the values were not compared: {one.unread}")
    compared = [module for module in one.modules if module.update is not None]
    if not compared:
        word, reason = _nothing(one)
        return replace(one, word=word, reason=reason)
    total = combined([
        *(one.update for one in compared if one.update is not None and math.isfinite(one.update.norm)),
        *(one_sided(module.norm or 0.0, in_a=True) for module in one.only_a),
        *(one_sided(module.norm or 0.0, in_a=False) for module in one.only_b),
    ])  # fmt: skip
    word, reason = _word(one, total)
    reason += _besides(word, one.fields)
    return replace(one, distance=update_distance(total), word=word, reason=reason)


def _nothing(one: Comparison) -> tuple[Relation, str]:
    if not one.modules and not one.only_a and not one.only_b:
        return "unrelated", "neither has LoRA weights"
    if not one.modules:
        counts = f"{counted(len(one.only_a), 'module', zero='0')} in A, {len(one.only_b)} in B"
        return "unrelated", f"no module is in both ({counts}){_elsewhere(one)}"
    if all("shape" in module.differing for module in one.modules):
        return "unrelated", "no module has the same shape in both"
    return "unknown", f"no update could be compared: {_reasons(one.modules)}"


def _elsewhere(one: Comparison) -> str:
    """Where both have the same kinds of modules in stacks of other names, as dialects and wrappers make them."""
    ours, theirs = (module_positions(only.module for only in sides) for sides in (one.only_a, one.only_b))
    same = {(place.layer, place.kind) for place in ours.values()} & {(p.layer, p.kind) for p in theirs.values()}
    stacks = [next((p.stack for p in placed.values() if (p.layer, p.kind) in same), "") for placed in (ours, theirs)]
    if not all(stacks):
        return ""
    return f": A has its layers in {stacks[0][:80]}, B in {stacks[1][:80]}; only equal names are compared"


def _word(one: Comparison, total: Distance) -> tuple[Relation, str]:
    counts = Counter(module.word for module in one.modules)
    apart, shared = _apart(one), sum(map(_is_shared, one.modules))
    multiples = bool(counts["scaled"])
    if counts.keys() <= {"equal", "scaled", "unknown"} and not apart:
        if left := counts["unknown"]:
            comparison = f"the compared updates are {'multiples' if multiples else 'equal'}"
            return (
                "unknown",
                f"{comparison}, and {counted(left, 'module')} could not be compared: {_reasons(one.modules)}",
            )
        return ("scaled", _why_scaled(one, total)) if multiples else ("equal", _why_equal(one))
    if counts.keys() <= {"equal", "scaled", "unknown"} and (shared or not total.norm + total.other_norm):
        return "related", f"the common updates are {'multiples' if multiples else 'equal'}; but {apart}"
    word, why = _by_cosine(total, shared)
    counted_words = [f"{counts[word]} {word}" for word in ("equal", "scaled", "related", "unrelated") if counts[word]]
    reasons = [why, f"modules: {', '.join(counted_words)}", apart]
    if counts["unknown"]:
        reasons.append(f"{counted(counts['unknown'], 'module')} could not be compared: {_reasons(one.modules)}")
    return word, "; ".join(filter(None, reasons))


def _by_cosine(total: Distance, shared: int) -> tuple[Relation, str]:
    """The word and the reason where updates differ; ``shared`` modules are equal or multiples."""
    if total.cosine is None:
        return "unrelated", "neither has an update" if not total.norm + total.other_norm else "the one update is zero"
    cosine = shown_cosine(total.cosine)
    if abs(total.cosine) >= KINSHIP:
        return "related", f"{'opposite: ' * (total.cosine < 0)}the updates have a cosine of {cosine}"
    if shared:
        message = f"{counted(shared, 'module')} {'has' if shared == 1 else 'have'} the same update, or a multiple of it"
        return "related", f"{message}, although all updates together have a cosine of {cosine}"
    return "unrelated", f"the updates have a cosine of {cosine} (related from {KINSHIP} up)"


def _is_shared(module: ModuleComparison) -> bool:
    """Whether the updates are equal or multiples, and not of zeros: no two trainings come upon that by chance."""
    return module.word in {"equal", "scaled"} and module.update is not None and module.update.norm > 0


def _apart(one: Comparison) -> str:
    """What the adapters have next to the updates of common modules that is not the same, in words."""
    differences = []
    for side, modules in (("A", one.only_a), ("B", one.only_b)):
        if trained := sum(only.norm is None or only.norm > 0 for only in modules):
            differences.append(
                f"{counted(trained, 'module')} with an update {'is' if trained == 1 else 'are'} only in {side}"
            )
    if others := sum(not tensor.equal for tensor in one.tensors):
        differences.append(f"{counted(others, 'tensor')} other than the factors differ{'s' * (others == 1)}")
    return ", and ".join(differences)


def _why_equal(one: Comparison) -> str:
    distances = [module.update for module in one.modules if module.update is not None]
    if all(distance.identical for distance in distances):
        return "all factors are bit-identical and all scales are equal"
    most = max((distance.difference or 0.0 for distance in distances), default=0.0)
    dtypes = dict.fromkeys(dtype for module in one.modules for side in (module.a, module.b) for dtype in side.dtypes)
    named = " and ".join(DTYPES.get(dtype, dtype) for dtype in dtypes)
    return f"no update differs by more than the rounding of {named} (at most {most:.2g} of its norm)"


def _why_scaled(one: Comparison, total: Distance) -> str:
    if total.word in {"scaled", "equal"}:
        return f"every update of B is {total.factor:.4g} times that of A"
    factors = [module.update.factor for module in one.modules if module.update is not None and module.update.norm]
    return f"each update of B is a multiple of A's: {min(factors):.4g} to {max(factors):.4g} times, varying by module"


def _besides(word: str, fields: Sequence[FieldChange]) -> str:
    """What the configs say that makes equal factors mean something else."""
    names = [change.field for change in fields if change.effect in {"meaning", "base", "modules"}]
    if word not in {"equal", "scaled"} or not names:
        return ""
    return f"; the configs still differ in {', '.join(names)}"


def _reasons(modules: Sequence[ModuleComparison]) -> str:
    reasons = Counter(
        module.reason or "its values are not finite" for module in modules if module.word == "unknown"
    ).most_common(3)
    return "; ".join(
        f"{reason} ({counted(number, 'module')})" if len(reasons) > 1 else reason for reason, number in reasons
    )


def shown_cosine(cosine: float) -> str:
    """Four decimals, and no negative zero."""
    return f"{round(cosine, 4) + 0.0:.4f}"
