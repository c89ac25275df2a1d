"""What the JSON document of ``inspect --spectrum`` has for one adapter."""

from collections.abc import Mapping
from dataclasses import dataclass

from lora_cli.render.json_schema import Count


@dataclass(frozen=True, slots=True)
class ModuleSpectrumReport:
    """The update of one module."""

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
    relative: float | None
    effective_rank: float
    """The exponential of the entropy of the singular values, each taken as a share of their sum."""
    rank_99: Count
    """The number of singular values that hold 99 % of the energy."""
    energy: Mapping[int, float]
    """For each k, the share of the sum of squares that the first k singular values hold."""
    singular_values: tuple[float, ...]
    """The singular values, largest first; empty for several experts in one parameter."""
    expert_norms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModuleWithoutSpectrum:
    """A module that has no spectrum, and why."""

    module: str
    reason: str


@dataclass(frozen=True, slots=True)
class SpectrumReport:
    """The updates of one adapter's modules, in numbers."""

    norm: float | None
    """The Frobenius norm of all updates s * B @ A together; null where no values were read."""
    relative: float | None
    """The same as a share of the norm of the base model's weights, where those were read."""
    modules: tuple[ModuleSpectrumReport, ...]
    without: tuple[ModuleWithoutSpectrum, ...]
    """Modules that have no spectrum, and why."""
    left_out: tuple[str, ...]
    """What else has an effect and is not included."""
    base_reason: str
    """Why no weights of a base model were compared with."""
    unread: str
    """Why no values were read, or empty."""
    hint: str
