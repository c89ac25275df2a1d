"""What the parent tells the warm process, and what it hears back besides reports. Torch-free."""

import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.runtime.composable import largest_rank
from lora_cli.tiers.eviction.registry import PolicyName

Device = Literal["auto", "cpu", "cuda"]
Forward = Literal["modules", "model"]
TierName = Literal["gpu", "cpu", "disk"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The tiers, in vLLM's words; ``max_lora_rank`` None is the largest rank there is.

    With ``fewer_places`` nobody asked for so many ``max_cpu_loras``: as many as fit will do. ``max_cpu_bytes`` limits
    what places in memory take together (None: only their number does).
    """

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int | None = None
    fewer_places: bool = False
    max_cpu_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How one warm process is laid out, for its whole life.

    ``modules`` are the base's modules that get storage in every slot. ``base_directory`` holds the base's checkpoint,
    or is None when there is none on this disk. ``forward="model"`` loads that checkpoint with transformers.
    ``cache_dir`` is the cache that keeps packed weights; without one, factors are read from the snapshots alone.
    ``eviction`` says who leaves a tier that is full. ``history`` is what the tiers of an earlier process knew of their
    adapters, by tier (``History.state``). ``fewer_places`` is as in ``Limits``. ``dummy`` is the ``config.json`` of a
    whole model that gets random weights, as engines have it with ``--load-format dummy``: to be timed, not believed.
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
    history: Mapping[str, object] = field(default_factory=dict)
    fewer_places: bool = False
    dummy: Mapping[str, Any] | None = None


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


@dataclass(frozen=True, slots=True)
class Sealed:
    """An adapter, pickled, in a process that must not open it. Sent to another one, it is the adapter there."""

    data: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.data,)


@dataclass(frozen=True, slots=True)
class Needs:
    """What an adapter needs of the slots: its largest rank, and the modules of the base that it is on."""

    rank: int
    modules: frozenset[str]


DEFAULT_RANK = 16
"""The largest rank that a slot takes when neither anybody nor an adapter says one; vLLM's ``--max-lora-rank``."""


def lay_out(
    base: BaseModel,
    adapters: Sequence[Adapter],
    limits: Limits,
    *,
    base_directory: Path | None = None,
    device: Device = "auto",
    forward: Forward = "modules",
    seed: int = 0,
    cache_dir: Path | None = None,
    eviction: PolicyName = "lru",
    history: Mapping[str, object] | None = None,
    more: Collection[str] = (),
    more_ranks: Collection[int] = (),
    dummy: Mapping[str, Any] | None = None,
) -> Plan:
    """Slots for every module that one of the adapters is on, as wide as the largest rank unless the limits say it.

    ``more`` are modules that get storage besides, for adapters that are not known yet, or not here to be looked at;
    ``more_ranks`` are ranks of those.
    """
    ranks = [*(largest_rank(adapter, base) or 1 for adapter in adapters), *more_ranks]
    if more or not ranks:
        ranks.append(DEFAULT_RANK)
    used = {*more, *(module for adapter in adapters for module in adapter.pairs)}
    return Plan(
        base=base,
        modules=tuple(module for module in base.modules if module in used),
        max_loras=limits.max_loras,
        max_cpu_loras=limits.max_cpu_loras,
        max_lora_rank=limits.max_lora_rank or max(ranks),
        base_directory=base_directory,
        device=device,
        forward=forward,
        seed=seed,
        cache_dir=cache_dir,
        eviction=eviction,
        history=history or {},
        fewer_places=limits.fewer_places,
        max_cpu_bytes=limits.max_cpu_bytes,
        dummy=dummy,
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
class Prefetch:
    """Have it in memory, and in a slot if one is free, ahead of its requests; answered with whether it was read."""

    job: Job


@dataclass(frozen=True, slots=True)
class Drop:
    """Let go of what the tiers hold by this key, where nobody uses it; answered with whether it is gone."""

    key: str


@dataclass(frozen=True, slots=True)
class Look:
    """Say what the tiers hold, ``with_history`` also what they know of the past; answered by ``Holdings``."""

    with_history: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What one tier holds: keys in the order in which they came, of at most ``most``; and what it did so far."""

    keys: tuple[str, ...]
    most: int
    used_bytes: int
    max_bytes: int | None
    hits: int
    loads: int
    evictions: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the tiers hold now; ``history`` as in ``Plan``."""

    gpu: Held
    cpu: Held
    history: Mapping[str, object] = field(default_factory=dict)


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
class Logged:
    """What the child says through ``logging``, for the parent's own handlers."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A ``LoraCliError`` on its way from the child: the parent raises it again."""

    message: str
    hint: str
    exit_code: int
