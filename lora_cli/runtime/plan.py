"""What the parent tells the warm process, and what it hears back besides reports. Torch-free."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.frozen import dataclass, field
from lora_cli.runtime.composable import largest_rank
from lora_cli.tiers.eviction.registry import PolicyName

Device = Literal["auto", "cpu", "cuda"]
Forward = Literal["modules", "model"]
TierName = Literal["gpu", "cpu", "disk"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The tiers, in vLLM's words; ``max_lora_rank`` None is the largest rank there is."""

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How one warm process is laid out, for its whole life.

    ``modules`` are the base's modules that get storage in every slot. ``base_directory`` holds the base's checkpoint,
    or is None when there is none on this disk. ``forward="model"`` loads that checkpoint with transformers.
    ``cache_dir`` is the cache that keeps packed weights; without one, factors are read from the snapshots alone.
    ``eviction`` says who leaves a tier that is full.
    """

    base: BaseModel
    modules: tuple[str, ...]
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    base_directory: Path | None = None
    device: Device = "auto"
    forward: Forward = "modules"
    max_cpu_bytes: int | None = None
    seed: int = 0
    cache_dir: Path | None = None
    eviction: PolicyName = "lru"


@dataclass(frozen=True, slots=True)
class Job:
    """One adapter, judged and on this disk. ``digest`` is its snapshot's; ``pinned`` keeps it on the device."""

    name: str
    directory: Path
    adapter: Adapter
    digest: str = ""
    pinned: bool = False

    @property
    def key(self) -> str:
        """What the tiers know it by: two names for the same bytes share a place."""
        return self.digest or str(self.directory)


def lay_out(
    base: BaseModel,
    jobs: Sequence[Job],
    limits: Limits,
    *,
    base_directory: Path | None = None,
    device: Device = "auto",
    forward: Forward = "modules",
    seed: int = 0,
    cache_dir: Path | None = None,
    eviction: PolicyName = "lru",
) -> Plan:
    """Slots for every module that one of the adapters is on, as wide as the largest rank unless the limits say it."""
    used = {module for job in jobs for module in job.adapter.pairs}
    return Plan(
        base=base,
        modules=tuple(module for module in base.modules if module in used),
        max_loras=limits.max_loras,
        max_cpu_loras=limits.max_cpu_loras,
        max_lora_rank=limits.max_lora_rank or max(largest_rank(job.adapter) for job in jobs),
        base_directory=base_directory,
        device=device,
        forward=forward,
        seed=seed,
        cache_dir=cache_dir,
        eviction=eviction,
    )


@dataclass(frozen=True, slots=True)
class Ready:
    """The warm process stands. ``notes`` are what a user should know (why weights are synthetic, say)."""

    device: str
    dtype: str
    weights: str
    slot_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """One request's adapter, in its slot: where it was found, and what it took in milliseconds.

    ``evicted`` counts what had to leave, by tier. ``forward_ms`` is a small batch through every module of the adapter.
    """

    tier: TierName
    load_ms: float
    forward_ms: float
    evicted: Mapping[TierName, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """Read, put and prove; answered with a ``LoadReport``."""

    job: Job


@dataclass(frozen=True, slots=True)
class ServeOnce:
    """Have it in a slot and run a small batch; answered with ``Served``."""

    job: Job


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a prompt without and with it, at most ``max_tokens`` tokens; answered with ``Answers``."""

    job: Job
    prompt: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Stage:
    """The child began a stage of the request at hand."""

    name: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A ``LoraCliError`` on its way from the child: the parent raises it again."""

    message: str
    hint: str
    exit_code: int
