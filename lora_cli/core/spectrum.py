"""The spectrum of an adapter: of each module's update ``s * B @ A`` how large it is, and over how many directions.

``effective_rank`` is that of Roy and Vetterli (The effective rank: a measure of effective dimensionality, EUSIPCO
2007): the exponential of the entropy of the singular values, as shares of their sum. It is ``r`` where all are equal,
and 1 where there is one. The inverse of the energy in the first is the stable rank.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median

from lora_cli.core.adapter import Adapter
from lora_cli.core.factors import Factors, Unreadable
from lora_cli.core.grouping import by_key
from lora_cli.core.json_schema import Count
from lora_cli.core.lora_config import ALTERING
from lora_cli.core.module_grid import module_positions

NEARLY_ALL = 0.99
"""The share of the energy that ``rank_99`` counts singular values for."""

OUTSTANDING = 3.0
"""The multiple, or the fraction, of the median of its kind from which a module is reported."""

FEWEST = 4
"""Modules of a kind from which its median means something."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Statistics of singular values: their ``norm``, the root of the sum of their squares, and how it is spread.

    ``energy`` maps k = 1, 2, 4 … below the rank to the share that the first k have in the sum of squares; ``rank_99``
    is how many singular values together have 99 % of it. An update of zeros has no energy, and the ranks 0.
    """

    norm: float
    effective_rank: float
    rank_99: int
    energy: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModuleSpectrum:
    """The update of one module.

    Of experts in one parameter norm is over all of them, energy the share that the first k of each have in all, and
    effective_rank and rank_99 the mean and the most of those that have an update.
    """

    module: str
    path: str
    """The module, or the fused parameter."""
    stack: str
    """The stack of layers that contains it (model.layers), or empty."""
    layer: int | None
    kind: str
    """Its column in the heat map."""
    r: Count
    scaling: float
    d_out: Count
    d_in: Count
    experts: Count
    norm: float
    base_norm: float | None
    """The Frobenius norm of the base model's weight, where it was read."""
    relative: float | None
    """The update's norm as a share of base_norm."""
    effective_rank: float
    """The exponential of the entropy of the singular values, each taken as a share of their sum."""
    rank_99: Count
    """The number of singular values that hold 99 % of the energy."""
    energy: Mapping[int, float]
    """For each k, the share of the sum of squares that the first k singular values hold."""
    singular_values: tuple[float, ...]
    """The singular values, largest first; empty for several experts in one parameter."""
    expert_norms: tuple[float, ...]

    @property
    def size(self) -> float:
        """The size to compare modules by: the share of the base's weight where that is known, else the norm."""
        return self.norm if self.relative is None else self.relative


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The updates of one adapter's modules, in numbers."""

    norm: float | None
    """The Frobenius norm of all updates s * B @ A together; null if no values were read."""
    relative: float | None
    """The same as a share of the norm of the base model's weights, where those were read."""
    modules: tuple[ModuleSpectrum, ...] = ()
    without: tuple[Unreadable, ...] = ()
    """Modules that have no spectrum, and why."""
    left_out: tuple[str, ...] = ()
    """What else has an effect and is not included."""
    base_reason: str = ""
    """Why no weights of a base model were compared with."""
    unread: str = ""
    """Why no values were read, or empty."""
    hint: str = ""


def spread_of(values: Sequence[float]) -> Spread:
    """The statistics of the singular values of one update, the largest first."""
    norm = math.hypot(*values)
    if not norm or not math.isfinite(norm):
        return Spread(norm, 0.0, 0)
    squares = [(value / norm) ** 2 for value in values]
    reached, energy, rank_99 = 0.0, {}, 0
    for count, square in enumerate(squares, 1):
        reached += square
        if not rank_99 and reached >= NEARLY_ALL:
            rank_99 = count
        if count & (count - 1) == 0 and count < len(squares):
            energy[count] = min(reached, 1.0)
    return Spread(norm, effective_rank(values), rank_99 or len(squares), energy or {1: 1.0})


def effective_rank(values: Sequence[float]) -> float:
    """The exponential of the entropy of ``values`` as shares of their sum; 0 if that is 0."""
    total = math.fsum(values)
    shares = [value / total for value in values if value > 0] if total > 0 else []
    return math.exp(-math.fsum(share * math.log(share) for share in shares)) if shares else 0.0


def module_spectrum(
    factors: Factors, values: Sequence[Sequence[float]], base_norm: float | None = None
) -> ModuleSpectrum:
    """The spectrum of one module, from the singular values of each of its experts, or of its only update."""
    spreads = [spread_of(one) for one in values]
    trained = [one for one in spreads if one.norm > 0]
    norm = math.hypot(*(one.norm for one in spreads))
    counts = dict.fromkeys(count for one in trained for count in one.energy)
    energy = {
        count: math.fsum(one.energy.get(count, 1.0) * (one.norm / norm) ** 2 for one in trained) for count in counts
    }
    return ModuleSpectrum(
        module=factors.module,
        path=factors.path,
        stack="",
        layer=None,
        kind="",
        r=factors.r,
        scaling=factors.scaling,
        d_out=factors.d_out,
        d_in=factors.d_in,
        experts=factors.experts,
        norm=norm,
        base_norm=base_norm,
        relative=norm / base_norm if base_norm else None,
        effective_rank=math.fsum(one.effective_rank for one in trained) / max(1, len(trained)),
        rank_99=max((one.rank_99 for one in trained), default=0),
        energy=energy,
        singular_values=tuple(values[0]) if factors.experts == 1 else (),
        expert_norms=tuple(one.norm for one in spreads) if factors.experts > 1 else (),
    )


def spectrum_of(
    modules: Sequence[ModuleSpectrum],
    without: Sequence[Unreadable] = (),
    left_out: tuple[str, ...] = (),
    base_reason: str = "",
) -> Spectrum:
    """The spectrum of an adapter that has these modules, each with its place among the others."""
    placed = module_positions(one.path for one in modules)
    with_base = [one for one in modules if one.base_norm]
    whole = math.hypot(*(one.base_norm or 0.0 for one in with_base))
    return Spectrum(
        math.hypot(*(one.norm for one in modules)),
        math.hypot(*(one.norm for one in with_base)) / whole if whole else None,
        tuple(replace(one, **asdict(placed[one.path])) for one in modules),
        tuple(without),
        left_out,
        base_reason,
    )


def find_outliers(
    modules: Sequence[ModuleSpectrum], kinds: Mapping[str, str]
) -> tuple[tuple[ModuleSpectrum, float], ...]:
    """Modules whose size is far from the median of their kind, with how many times it they are; the farthest first.

    ``kinds`` maps the path of a module to its kind. Updates of zeros are not among them.
    """
    sizes = by_key((kinds[one.path], one.size) for one in modules if one.norm)
    usual = {kind: median(found) for kind, found in sizes.items() if len(found) >= FEWEST}
    times = [(one, one.size / usual[kinds[one.path]]) for one in modules if one.norm and kinds[one.path] in usual]
    far = [(one, ratio) for one, ratio in times if not 1 / OUTSTANDING < ratio < OUTSTANDING]
    return tuple(sorted(far, key=lambda found: -abs(math.log(found[1]))))


def left_out(adapter: Adapter) -> tuple[str, ...]:
    """The parts of ``adapter`` whose effect is not in ``s * B @ A``, in words."""
    parts = Counter[str](key.part for key in adapter.keys.values())
    excluded = [
        f"{words} ({parts[part]} tensors)" if parts[part] > 1 else words for part, words in BESIDE if part in parts
    ]
    config = adapter.config
    if config is None:
        return tuple(excluded)
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(ALTERING):
        excluded.append(f"PEFT's change of the base's weights on loading (init_lora_weights is {start[:40]})")
    if config.kasa_config is not None:
        excluded.append("KaSA's removal of the smallest singular values of the base's weights")
    if config.use_qalora:
        excluded.append("QALoRA's input groups, which scale all singular values of a module equally")
    if config.ensure_weight_tying:
        excluded.append("the tying of modules, which share one update")
    return tuple(excluded)


BESIDE = (
    ("magnitude", "DoRA's magnitudes"),
    ("lora_bias", "biases on lora_B"),
    ("bias", "trained biases"),
    ("saved", "fully saved weights"),
    ("trainable_tokens", "trained embedding rows"),
    ("variant", "MonteCLoRA's or VeLoRA's tensors"),
)
"""Parts of an adapter next to its factors, as they are reported."""
