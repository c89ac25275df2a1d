"""The least with which an engine serves a set of adapters: rank, modules and slots, and which adapters drive them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lora_cli.core.base_model import BaseModel
from lora_cli.core.json_schema import Count, PositiveCount
from lora_cli.core.module_facts import leaf_of
from lora_cli.engines.profile import Profile
from lora_cli.engines.slot_memory import Group, groups_of, own_width, slot_bytes, width_of


@dataclass(frozen=True, slots=True)
class Need:
    """What one adapter asks of an engine's slots.

    ``targets`` are the names under which the engine puts LoRA on its modules, ``modules`` the modules themselves:
    path to (d_in, d_out).
    """

    name: str
    rank: int
    targets: frozenset[str]
    modules: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many slots there may be, and how many adapters in the memory of the machine; None for no limit.

    ``pinned`` are those adapters that never leave their slot.
    """

    slots: int | None = None
    memory: int | None = None
    pinned: int = 0


@dataclass(frozen=True, slots=True)
class Fit:
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
class Driver:
    """Adapters without which a slot would be smaller."""

    adapters: tuple[str, ...]
    without: Fit
    """The limits for the other adapters."""
    saves_slot_bytes: Count
    """The bytes saved in one slot."""
    saves_bytes: Count
    """The bytes saved in all slots."""


class Slots:
    """An engine's slots on a base, or on none that is known: what fits are computed for, with the base looked at once.

    Raises:
        UsageError: ``tp`` does not divide what it has to.
    """

    def __init__(self, profile: Profile, base: BaseModel | None, tp: int = 1) -> None:
        layout = profile.engine.slots
        assert layout is not None
        self.profile, self.base, self.layout = profile, base, layout
        self.groups: tuple[Group, ...] = groups_of(base, profile, tp) if base is not None else ()
        paths = base.modules if base is not None else {}
        self._order = {leaf: i for i, leaf in enumerate(dict.fromkeys(map(leaf_of, paths)))}

    def rank(self, needed: int) -> int:
        """The smallest rank that the engine's slots may have and that is enough."""
        ranks = self.profile.engine.ranks
        return next(rank for rank in ranks if rank >= needed) if ranks else needed

    def fit(self, needs: Sequence[Need], limits: Limits) -> Fit:
        """The smallest that serves all of ``needs``, of which there is at least one."""
        rank = self.rank(max(need.rank for need in needs))
        wanted = frozenset().union(*(need.targets for need in needs))
        slots = len(needs) + self.layout.base_slots
        if limits.slots is not None:
            slots = min(slots, limits.slots)
        memory = max(slots, min(len(needs), limits.memory or len(needs)))
        names = tuple(sorted(wanted, key=lambda name: (self._order.get(name, len(self._order)), name)))
        if self.base is None:
            width = own_width(need.modules for need in needs)
            targets = names if self.layout.needs_targets else None
            own = slot_bytes(width, rank)
            return Fit(rank, targets, slots, memory, own, slots * own, own, lower_bound=True)
        narrow, whole = (width_of(self.groups, chosen, self.layout) for chosen in (wanted, None))
        narrower = self.layout.needs_targets or narrow < whole
        width = narrow if narrower else whole
        targets = names if narrower else None
        each, every = slot_bytes(width, rank), slot_bytes(whole, rank)
        return Fit(rank, targets, slots, memory, each, slots * each, every, lower_bound=False)

    def drivers(self, needs: Sequence[Need], limits: Limits) -> tuple[Driver, ...]:
        """The adapters that make a slot larger than the others need, alone or together; what saves most is first."""
        fit = self.fit(needs, limits)
        found = []
        for names in self._suspects(needs, fit.max_lora_rank):
            others = [need for need in needs if need.name not in names]
            if others and len(others) < len(needs):
                without = self.fit(others, limits)
                if without.slot_bytes < fit.slot_bytes:
                    adapters = tuple(need.name for need in needs if need.name in names)
                    saved = fit.slot_bytes - without.slot_bytes, fit.total_bytes - without.total_bytes
                    found.append(Driver(adapters, without, *saved))
        return tuple(sorted(found, key=lambda driver: driver.without.slot_bytes))

    def _suspects(self, needs: Sequence[Need], rank: int) -> list[frozenset[str]]:
        """Those with the highest rank, and those that have modules which most have not; each set once."""
        highest = frozenset(need.name for need in needs if self.rank(need.rank) == rank)
        sets = [frozenset(n.name for n in needs if not n.targets.isdisjoint(group.names)) for group in self.groups]
        if self.base is None:
            modules = dict.fromkeys(path for need in needs for path in need.modules)
            sets = [frozenset(need.name for need in needs if path in need.modules) for path in modules]
        return list(dict.fromkeys([highest, *(names for names in sets if 0 < 2 * len(names) <= len(needs))]))
