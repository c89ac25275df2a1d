"""The plan of a warm process: its tiers, its slots, and the base. Torch-free."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lora_cli.adapter.adapter import Adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.runtime.composable import largest_rank
from lora_cli.tiers.eviction import PolicyName

Device = Literal["auto", "cpu", "cuda"]
Forward = Literal["modules", "model"]


@dataclass(frozen=True, slots=True)
class TierLimits:
    """The tiers, in vLLM's words; ``max_lora_rank`` 0 is the largest rank there is.

    With ``fewer_places`` ``max_cpu_loras`` is a default, not a request: as many as fit will do. ``max_cpu_bytes``
    limits what places in memory take together (None: only their number does).
    """

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int = 0
    fewer_places: bool = False
    max_cpu_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The layout of one warm process, for its whole life.

    ``modules`` are the base's modules that get storage in every slot; ``plan_slots`` adds them, and a rank where
    ``limits`` has none. ``base_directory`` holds the base's checkpoint, or is None when there is none on this disk.
    ``forward="model"`` loads that checkpoint with transformers. ``eviction`` is the policy of a full tier.
    ``dummy`` is the ``config.json`` of a whole model that gets random weights, as engines have it with ``--load-format
    dummy``: to be timed, not believed.
    """

    base: BaseModel
    modules: tuple[str, ...]
    limits: TierLimits
    base_directory: Path | None = None
    device: Device = "auto"
    forward: Forward = "modules"
    seed: int = 0
    eviction: PolicyName = "lru"
    dummy: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SlotRequirements:
    """The slot requirements of an adapter: its largest rank, and its modules."""

    rank: int
    modules: frozenset[str]


def slot_requirements(adapter: Adapter, base: BaseModel) -> SlotRequirements:
    """The slot requirements of ``adapter`` on ``base``, by its header."""
    return SlotRequirements(largest_rank(adapter, base), frozenset(adapter.pairs).intersection(base.modules))


DEFAULT_RANK = 16
"""The largest rank of a slot without an option or a known adapter, as vLLM's ``--max-lora-rank``."""


def plan_slots(plan: Plan, needs: Collection[SlotRequirements], more: Collection[str] = ()) -> Plan:
    """``plan`` with slots for every module that is needed, and for the largest rank unless it has one.

    ``more`` are modules that get storage besides, for adapters that are not known yet, or not here to be looked at.
    """
    ranks = [one.rank or 1 for one in needs]
    if more or not ranks:
        ranks.append(DEFAULT_RANK)
    used = frozenset(more).union(*(one.modules for one in needs))
    modules = tuple(module for module in plan.base.modules if module in used)
    limits = replace(plan.limits, max_lora_rank=plan.limits.max_lora_rank or max(ranks))
    return replace(plan, modules=modules, limits=limits)
