"""The JSON document of ``inspect``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lora_cli.render.comparison_report import ComparisonReport
from lora_cli.render.json_schema import INLINE, Count, PositiveCount, Sha256OrEmpty
from lora_cli.render.spectrum_report import SpectrumReport
from lora_cli.render.validate_report import BaseModelSummary, CheckedAdapter, FindingReport


@dataclass(frozen=True, slots=True)
class ModuleSummary:
    """What the adapter has for one module; null where its tensors or its config do not say."""

    module: str
    """Its path in the base model."""
    r: Count | None
    """The rank that its tensors have."""
    scaling: float | None
    """The s in s * B @ A."""
    d_in: Count | None
    d_out: Count | None
    dtype: str
    """As safetensors names it; both where A and B differ."""
    parameters: Count
    """The number of elements of A and B."""
    bytes: Count
    """The bytes of A and B, as they are stored."""


@dataclass(frozen=True, slots=True)
class WriterReport:
    """A tool that helped to write the adapter, as far as its files say."""

    tool: str
    version: str
    """May be empty."""
    told_by: str
    """The file that says so, and what in it."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The front matter of README.md. What it does not say is empty."""

    license: str
    license_name: str
    license_link: str
    library_name: str
    pipeline_tag: str
    base_model: tuple[str, ...]
    language: tuple[str, ...]
    datasets: tuple[str, ...]
    tags: tuple[str, ...]
    error: str
    """Why the front matter was not read; empty where it was."""


@dataclass(frozen=True, slots=True)
class AdapterSummary:
    """What the adapter is, from its config and headers."""

    format: str
    """How the weights are stored, and what is unusual about their names."""
    base: str
    """The base model, as the config names it."""
    base_revision: str
    peft_version: str
    """As the config says."""
    task_type: str
    modules: Count
    """The number of modules that have a factor."""
    ranks: Mapping[int, PositiveCount]
    """For each rank, the number of modules that have it."""
    scalings: Mapping[float, PositiveCount]
    """For each scaling, the number of modules that have it."""
    targets: Mapping[str, PositiveCount]
    """For each last component of a module's path, the number of modules that have it."""
    layers: tuple[Count, ...]
    dtypes: Mapping[str, PositiveCount]
    """For each dtype, the number of tensors that have it."""
    parameters: Count
    weight_bytes: Count
    """The bytes of all tensors."""
    total_bytes: Count
    """The bytes of all files whose size the origin knows."""
    files: Count
    sha256: Sha256OrEmpty
    """The digest of the weights, where the origin knows it; else empty."""
    snapshot: Sha256OrEmpty
    """The digest of the same revision in the cache, where it is cached; else empty."""
    features: tuple[str, ...]
    """What goes beyond plain LoRA."""
    slot_bytes: Count | None
    """What A and B of its own modules take on a GPU at their own ranks, in slot_dtype; null without a base model. An
    engine's slots are larger: see engine_args."""
    slot_dtype: str
    """The dtype that the base model is served in; may be empty."""
    writers: tuple[WriterReport, ...]
    """The tools that helped to write the adapter, PEFT first; empty where none is named."""
    card: ModelCard | None
    """The front matter of README.md, or null where there is none."""
    metadata: Mapping[str, str]
    """The metadata of the safetensors header, cut to a bound, without PEFT's own format key."""
    by_module: tuple[ModuleSummary, ...]
    """Every module, in the order of its tensors; at most the first 75000, while modules counts all."""


@dataclass(frozen=True, slots=True)
class InspectedAdapter:
    """One adapter. Its exit_code is 1 where config or weights cannot be read; a finding is not a failure here."""

    checked: CheckedAdapter[FindingReport] = field(metadata=INLINE)
    inspection: AdapterSummary | None
    """What the adapter is, or null where it could not be read."""
    spectrum: SpectrumReport | None
    """The result of --spectrum; null where it was not asked for."""
    diff: ComparisonReport | None
    """The result of --diff; null where it was not asked for."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One adapter, and what is to be said about it."""

    name: str
    reason: str
    hint: str
    """May be empty."""
    exit_code: Count


@dataclass(frozen=True, slots=True)
class SlotFit:
    """The smallest legal limits of an engine for some adapters, and what its slots then take."""

    max_lora_rank: PositiveCount
    lora_target_modules: tuple[str, ...] | None
    """Null where the engine needs no list, or no list makes a slot smaller."""
    max_loras: PositiveCount
    """The number of slots on the GPU, including those of the base model."""
    max_cpu_loras: PositiveCount
    """The number of adapters in the machine's memory."""
    slot_bytes: Count
    """The bytes of one slot on one GPU."""
    total_bytes: Count
    """The bytes of all slots on one GPU."""
    whole_slot_bytes: Count
    """The bytes of one slot without lora_target_modules."""
    lower_bound: bool
    """True where there was no base model: the bytes are then those of the adapters' own modules."""


@dataclass(frozen=True, slots=True)
class SlotDriver:
    """Adapters without which a slot would be smaller."""

    adapters: tuple[str, ...]
    without: SlotFit
    """The limits for the other adapters."""
    saves_slot_bytes: Count
    """The bytes saved in one slot."""
    saves_bytes: Count
    """The bytes saved in all slots."""


@dataclass(frozen=True, slots=True)
class LocatedAdapter:
    """An adapter that is loaded at start-up."""

    name: str
    path: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class EngineArgsReport:
    """The smallest flags with which an engine serves the adapters."""

    engine: str
    """The engine's name, as --engine-args takes it."""
    version: str | None
    """The version that was asked for, or null for the newest."""
    profile: str
    """The version whose profile was used."""
    proven: bool
    flags: tuple[str, ...]
    """The words of the flags, each a separate argument; empty where no adapter is served."""
    command: str
    """The whole command line for a shell; empty where no adapter is served."""
    tp: PositiveCount
    served: tuple[str, ...]
    """The adapters that the flags serve."""
    left_out: tuple[Remark, ...]
    """Adapters that no flags would serve."""
    served_wrong: tuple[Remark, ...]
    """Adapters that are served differently from how they were trained."""
    fit: SlotFit | None
    """The smallest legal limits, or null where no adapter is served."""
    dtype: str | None
    """The dtype of the slots; null without a base model."""
    base_slots: Count
    """The number of slots that requests to the base model alone take."""
    drivers: tuple[SlotDriver, ...]
    """Adapters without which a slot would be smaller; the largest saving is first."""
    located: tuple[LocatedAdapter, ...]
    """Adapters that are loaded at start-up."""
    absent: tuple[str, ...]
    """Adapters of a manifest that are not on this machine."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InspectReport:
    """What adapters are. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/inspect/1"]
    version: str
    """The version of lora-cli."""
    base: BaseModelSummary | None
    """The base model that the adapters were compared with, or null."""
    adapters: tuple[InspectedAdapter, ...]
    engine_args: EngineArgsReport | None
    """The smallest flags with which an engine serves the adapters, or null where they were not asked for."""
