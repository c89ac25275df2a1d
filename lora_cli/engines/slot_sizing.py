"""The smallest limits with which an engine serves a set of adapters: rank, modules and slots, and the bytes they take.

Every engine allocates, for each module that can have LoRA, ``slots × rank × (d_in + d_out)`` elements when it starts,
whatever adapters are loaded later. ``SlotLayout`` says which modules those are, and what is packed. The formulas were
compared with the buffers of vLLM 0.32 (``lora/layers``) and SGLang 0.5.23 (``lora/mem_pool.py``).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lora_cli.adapter.names import last_name
from lora_cli.base.base_model import HALF_BYTES, BaseModel, BaseModule
from lora_cli.engines.name_resolution import FUSED, TOWERS
from lora_cli.engines.profile import VOCABULARY, Profile, SlotLayout
from lora_cli.json_schema import Count, PositiveCount


@dataclass(frozen=True, slots=True)
class Need:
    """The requirements of one adapter for an engine's slots.

    ``targets`` are the names under which the engine puts LoRA on its modules, ``modules`` the modules themselves:
    path to (d_in, d_out).
    """

    name: str
    rank: int
    targets: frozenset[str]
    modules: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """The maximum number of slots, and of adapters in the memory of the machine; None for no limit.

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
    """An engine's slots on a base, or on an unknown one; the widths of the base's modules are computed once.

    ``widths`` maps names of modules whose buffers are made together (targeting one of them makes all) to the elements
    that they have for each rank, in one slot on one GPU, in the order of the base's modules.
    """

    def __init__(self, profile: Profile, base: BaseModel | None) -> None:
        layout = profile.engine.slots
        assert layout is not None
        self.profile, self.base, self.layout = profile, base, layout
        self.widths = _widths(base, profile, layout) if base is not None else {}
        paths = base.modules if base is not None else {}
        self._order = {leaf: i for i, leaf in enumerate(dict.fromkeys(map(last_name, paths)))}

    def rank(self, needed: int) -> int:
        """The smallest rank that the engine's slots may have and that is enough."""
        ranks = self.profile.engine.ranks
        return next(rank for rank in ranks if rank >= needed) if ranks else needed

    def bytes_of_one(self, rank: int, targets: Collection[str] | None = None) -> int:
        """The bytes of one slot, in the half precision that engines keep LoRA in; None targets all modules."""
        if targets is None:
            return sum(self.widths.values()) * rank * HALF_BYTES
        twice = self.layout.twice if self.layout.twice and self.layout.twice <= set(targets) else frozenset()
        chosen = ((names, width) for names, width in self.widths.items() if not names.isdisjoint(targets))
        return sum(width * (1 if names.isdisjoint(twice) else 2) for names, width in chosen) * rank * HALF_BYTES

    def fit(self, needs: Sequence[Need], limits: SlotLimits) -> Fit:
        """The smallest that serves all of ``needs``, of which there is at least one."""
        rank = self.rank(max(need.rank for need in needs))
        wanted = frozenset().union(*(need.targets for need in needs))
        slots = len(needs) + self.layout.base_slots
        if limits.slots is not None:
            slots = min(slots, limits.slots)
        memory = max(slots, min(len(needs), limits.memory or len(needs)))
        names = tuple(sorted(wanted, key=lambda name: (self._order.get(name, len(self._order)), name)))
        if self.base is None:
            targets = names if self.layout.needs_targets else None
            own = _own_width(needs) * rank * HALF_BYTES
            return Fit(rank, targets, slots, memory, own, slots * own, own, lower_bound=True)
        narrow, whole = self.bytes_of_one(rank, wanted), self.bytes_of_one(rank)
        narrower = self.layout.needs_targets or narrow < whole
        each, targets = (narrow, names) if narrower else (whole, None)
        return Fit(rank, targets, slots, memory, each, slots * each, whole, lower_bound=False)

    def drivers(self, needs: Sequence[Need], limits: SlotLimits) -> tuple[Driver, ...]:
        """The adapters that make a slot larger than the others need, alone or together; what saves most is first."""
        fit = self.fit(needs, limits)
        found = []
        for names in self._candidates(needs, fit.max_lora_rank):
            others = [need for need in needs if need.name not in names]
            if others and len(others) < len(needs):
                without = self.fit(others, limits)
                if without.slot_bytes < fit.slot_bytes:
                    adapters = tuple(need.name for need in needs if need.name in names)
                    saved = fit.slot_bytes - without.slot_bytes, fit.total_bytes - without.total_bytes
                    found.append(Driver(adapters, without, *saved))
        return tuple(sorted(found, key=lambda driver: driver.without.slot_bytes))

    def _candidates(self, needs: Sequence[Need], rank: int) -> list[frozenset[str]]:
        """The adapters with the highest rank, and those with modules that at most half of them have; each set once."""
        highest = frozenset(need.name for need in needs if self.rank(need.rank) == rank)
        sets = [frozenset(n.name for n in needs if not n.targets.isdisjoint(names)) for names in self.widths]
        if self.base is None:
            modules = dict.fromkeys(path for need in needs for path in need.modules)
            sets = [frozenset(need.name for need in needs if path in need.modules) for path in modules]
        return list(dict.fromkeys([highest, *(names for names in sets if 0 < 2 * len(names) <= len(needs))]))


def _own_width(needs: Iterable[Need]) -> int:
    """Elements for each rank of the modules that adapters themselves have: what a slot takes at least."""
    widest: dict[str, int] = {}
    for need in needs:
        for path, (d_in, d_out) in need.modules.items():
            widest[path] = max(widest.get(path, 0), d_in + d_out)
    return sum(widest.values())


def _widths(base: BaseModel, profile: Profile, layout: SlotLayout) -> Mapping[frozenset[str], int]:
    """All that can have LoRA in the engine's model of ``base``, as ``Slots.widths``."""
    widths: Counter[frozenset[str]] = Counter()
    present = {last_name(path) for path in base.modules}
    sparse = any(FUSED.fullmatch(path) for path in base.parameters)
    shared = any("shared_expert" in path for path in base.modules)
    dense = {"gate_proj", "up_proj", "down_proj"} if layout.everywhere and sparse and not shared else set()
    for path, module in base.modules.items():
        leaf = last_name(path)
        if module.kind == "embedding" or leaf in VOCABULARY:
            if leaf in profile.grammar.vocabulary(base):
                widths[frozenset({leaf})] += module.d_in + module.d_out
        elif not TOWERS.search(path) and leaf not in dense:
            widths[layout.group(leaf)] += module.d_in + module.d_out + _unfilled(leaf, module, layout, present)
    for names, width in _of_parameters(base, profile, layout):
        widths[names] += width
    return {names: width for names, width in widths.items() if width}


def _unfilled(leaf: str, module: BaseModule, layout: SlotLayout, present: Collection[str]) -> int:
    """The elements of A's of a packed module without a part in this base, counted with its first part."""
    names = layout.group(leaf)
    whole = next((name for name in names if name in layout.stacked), None)
    parts = sorted(names & set(present))
    return module.d_in * (layout.stacked[whole] - len(parts)) if whole is not None and parts[0] == leaf else 0


def _of_parameters(base: BaseModel, profile: Profile, layout: SlotLayout) -> Iterable[tuple[frozenset[str], int]]:
    """Fused experts and routers, which are bare parameters in transformers."""
    fused = base.model_type in profile.engine.fused_experts
    seen: set[str] = set()
    for path, shape in base.parameters.items():
        leaf = last_name(path)
        if layout.routers and path.endswith((".gate.weight", ".router.weight")) and len(shape) == 2:
            yield layout.group(path.split(".")[-2]), sum(shape)
        elif leaf in layout.experts and FUSED.fullmatch(path) and len(shape) == 3:
            if layout.everywhere and leaf in seen:
                continue
            seen.add(leaf)
            inner = shape[1] * shape[2] // base.hidden_size
            factors = 1 if fused or leaf == "down_proj" else 2
            times = shape[0] * (base.num_layers if layout.everywhere else 1)
            yield layout.group(layout.experts[leaf]), times * (factors * base.hidden_size + inner)
