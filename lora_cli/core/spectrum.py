"""The spectrum of an adapter: of each module's update ``s * B @ A`` how large it is, and over how many directions.

``effective_rank`` is that of Roy and Vetterli (The effective rank: a measure of effective dimensionality, EUSIPCO
2007): the exponential of the entropy of the singular values, as shares of their sum. It is ``r`` where all are equal,
and 1 where there is one. The inverse of the energy in the first is the stable rank.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lora_cli.core.adapter import Adapter
from lora_cli.core.config_changes import ALTERING
from lora_cli.core.factors import Factors, Unreadable

NEARLY_ALL = 0.99
"""The share of the energy that ``rank_99`` counts singular values for."""

OUTSTANDING = 3.0
"""So many times the median of its kind, or so small a part of it, is told of a module."""

FEWEST = 4
"""Modules of a kind from which its median means something."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What singular values say: their ``norm``, the root of the sum of their squares, and how it is spread.

    ``energy`` maps k = 1, 2, 4 … below the rank to the share that the first k have in the sum of squares; ``rank_99``
    is how many singular values together have 99 % of it. An update of zeros has no energy, and the ranks 0.
    """

    norm: float
    effective_rank: float
    rank_99: int
    energy: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModuleSpectrum:
    """One module's update in numbers.

    ``path`` is the module, or the fused parameter. Of experts in one parameter ``norm`` is over all of them, ``energy``
    the share that the first k of each have in all, ``effective_rank`` and ``rank_99`` the mean and the most of those
    that have an update, and ``expert_norms`` are one by one; ``singular_values`` (the largest first) are told of others
    alone. ``base_norm`` is the Frobenius norm of the base's weight, where it was read.
    """

    module: str
    path: str
    r: int
    scaling: float
    d_out: int
    d_in: int
    experts: int
    norm: float
    effective_rank: float
    rank_99: int
    energy: Mapping[int, float] = field(default_factory=dict)
    singular_values: tuple[float, ...] = ()
    expert_norms: tuple[float, ...] = ()
    base_norm: float | None = None

    @property
    def relative(self) -> float | None:
        """The update's norm as a share of the base's weight."""
        return self.norm / self.base_norm if self.base_norm else None

    @property
    def size(self) -> float:
        """What modules are compared by: the share of the base's weight where that is known, else the norm."""
        return self.norm if self.relative is None else self.relative


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The spectra of an adapter's modules, in its order.

    ``without`` are modules that have none. ``left_out`` says what else of the adapter has an effect and is not in it.
    ``base_reason`` is why no weights of a base were compared with, or which were not. ``unread`` is why no values
    could be read at all, and ``hint`` what to do.
    """

    modules: tuple[ModuleSpectrum, ...] = ()
    without: tuple[Unreadable, ...] = ()
    left_out: tuple[str, ...] = ()
    base_reason: str = ""
    unread: str = ""
    hint: str = ""

    @property
    def norm(self) -> float:
        """The norm of all updates together."""
        return math.hypot(*(one.norm for one in self.modules))

    @property
    def relative(self) -> float | None:
        """That of all with a base's weight, as a share of the norm of those weights."""
        held = [one for one in self.modules if one.base_norm]
        whole = math.hypot(*(one.base_norm or 0.0 for one in held))
        return math.hypot(*(one.norm for one in held)) / whole if whole else None


def spread_of(values: Sequence[float]) -> Spread:
    """What the singular values ``values`` (the largest first) of one update say."""
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
    """The exponential of the entropy of ``values`` as shares of their sum; 0 where that is 0."""
    total = math.fsum(values)
    shares = [value / total for value in values if value > 0] if total > 0 else []
    return math.exp(-math.fsum(share * math.log(share) for share in shares)) if shares else 0.0


def spectrum_of(factors: Factors, values: Sequence[Sequence[float]], base_norm: float | None = None) -> ModuleSpectrum:
    """The spectrum of one module, from the singular values of each of its experts, or of its only update."""
    spreads = [spread_of(one) for one in values]
    trained = [one for one in spreads if one.norm > 0]
    norm = math.hypot(*(one.norm for one in spreads))
    counts = dict.fromkeys(count for one in trained for count in one.energy)
    energy = {
        count: math.fsum(one.energy.get(count, 1.0) * (one.norm / norm) ** 2 for one in trained) for count in counts
    }
    return ModuleSpectrum(
        factors.module,
        factors.path,
        factors.r,
        factors.scaling,
        factors.d_out,
        factors.d_in,
        factors.experts,
        norm,
        math.fsum(one.effective_rank for one in trained) / max(1, len(trained)),
        max((one.rank_99 for one in trained), default=0),
        energy,
        tuple(values[0]) if factors.experts == 1 else (),
        tuple(one.norm for one in spreads) if factors.experts > 1 else (),
        base_norm,
    )


def outstanding(
    modules: Sequence[ModuleSpectrum], kinds: Mapping[str, str]
) -> tuple[tuple[ModuleSpectrum, float], ...]:
    """Modules whose size is far from the median of their kind, with how many times it they are; the farthest first.

    ``kinds`` maps the path of a module to its kind. Updates of zeros are not among them.
    """
    sizes: dict[str, list[float]] = {}
    for one in modules:
        if one.norm:
            sizes.setdefault(kinds[one.path], []).append(one.size)
    usual = {kind: median(found) for kind, found in sizes.items() if len(found) >= FEWEST}
    times = [(one, one.size / usual[kinds[one.path]]) for one in modules if one.norm and kinds[one.path] in usual]
    far = [(one, ratio) for one, ratio in times if not 1 / OUTSTANDING < ratio < OUTSTANDING]
    return tuple(sorted(far, key=lambda found: -abs(math.log(found[1]))))


def median(values: Iterable[float]) -> float:
    """The middle one; of an even number the mean of the two."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def left_out(adapter: Adapter) -> tuple[str, ...]:
    """What of ``adapter`` has an effect that is not in ``s * B @ A``, in words."""
    parts: dict[str, int] = {}
    for key in adapter.keys.values():
        parts[key.part] = parts.get(key.part, 0) + 1
    told = [f"{words} ({parts[part]} tensors)" if parts[part] > 1 else words for part, words in BESIDE if part in parts]
    config = adapter.config
    if config is None:
        return tuple(told)
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(ALTERING):
        told.append(f"that PEFT changes the base's weights when it loads it (init_lora_weights is {start[:40]})")
    if config.kasa_config is not None:
        told.append("that KaSA takes the smallest singular values out of the base's weights")
    if config.use_qalora:
        told.append("QALoRA's groups of inputs, which scale all singular values of a module alike")
    if config.ensure_weight_tying:
        told.append("that tied modules share one update")
    return tuple(told)


BESIDE = (
    ("magnitude", "DoRA's magnitudes"),
    ("lora_bias", "biases on lora_B"),
    ("bias", "trained biases"),
    ("saved", "whole weights that were saved"),
    ("trainable_tokens", "trained rows of an embedding"),
    ("variant", "MonteCLoRA's or VeLoRA's tensors"),
)
"""Parts of an adapter beside its factors, as they are told of."""
