"""Which modules of a base PEFT would apply the modules of an adapter to; and the highest rank of an adapter."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lora_cli.adapter.adapter import PEFT_PREFIX, Adapter, Key, LoraPair, last_name, leaf_of, without_wrappers
from lora_cli.adapter.config import LoraConfig
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.errors import FormatError
from lora_cli.finding import Applied, Location
from lora_cli.peft.targets import (
    EMBEDDING_NAMES,
    EXPERTS,
    OUTPUT_NAMES,
    SCALE_FIELDS,
    Endings,
    Scale,
    for_task,
    scales,
    targeted,
    targeted_in,
    wrapped_parameters,
)
from lora_cli.text import counted, cut

DEFAULT_NAME = "default"
"""The name that PEFT gives an adapter in memory by default, and looks its tensors up under."""

_FIRST_INDEX = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")


@dataclass(frozen=True, slots=True)
class Application:
    """The modules of an adapter, sorted by what PEFT would do with them. Each module with a tensor is in one of these.

    ``adapter`` is the adapter as PEFT loads it on ``base``, which has the head of the adapter's task: separate experts
    are stacked if the base has fused ones; ``refused`` is why PEFT does not take its config.

    ``found`` exist in the base (without a base: all), ``beyond`` would if it had more layers, ``absent`` do not. Of the
    found, ``misnamed`` are dropped because of the form of their names, and ``untargeted`` because the config does not
    target them; ``matched`` are the rest. ``missing`` are modules of the base that the config targets and that have no
    tensors. ``ranks`` maps found modules to the rank in the config, ``expected`` to the module of the base (empty
    without a base; a fused parameter may have either of two orientations).

    ``errors`` are patterns of the config that could not be matched; what depends on them is empty. ``scales`` has rank,
    alpha and scale of the modules of the adapter as it is stored; ``scales_error`` says why they are unknown.
    """

    adapter: Adapter
    base: BaseModel | None
    found: tuple[str, ...]
    beyond: tuple[str, ...]
    absent: tuple[str, ...]
    misnamed: tuple[str, ...]
    untargeted: tuple[str, ...]
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    ranks: Mapping[str, int]
    expected: Mapping[str, tuple[BaseModule, ...]]
    errors: tuple[FormatError, ...] = ()
    refused: FormatError | None = None
    scales: Mapping[str, Scale] = field(default_factory=dict)
    scales_error: FormatError | None = None

    @property
    def applied(self) -> Applied:
        """How many modules are matched, of how many."""
        return Applied(len(self.matched), len(self.found) + len(self.beyond) + len(self.absent))

    def reasons(self) -> str:
        """Why modules do not apply, with counts, as a text."""
        counts = (
            (len(self.absent), "the base has no module of that name"),
            (len(self.beyond), "the base has no such layer"),
            (len(self.misnamed), "the name is not in PEFT's form"),
            (len(set(self.untargeted) - set(self.misnamed)), "the config does not target it"),
        )
        return "; ".join(f"{reason} ({counted(number, 'module')})" for number, reason in counts if number)


def apply(adapter: Adapter, base: BaseModel | None) -> Application:
    """Sort the modules of ``adapter`` as PEFT would on ``base``, or without one by the config alone."""
    stored, (of_modules, scales_error) = adapter, _scales(adapter.config, adapter.pairs)
    if base is not None and adapter.config is not None:
        base = for_task(base, adapter.config.task_type, adapter.pairs, adapter.config.base_class)
    refused: FormatError | None = None
    if base is not None and base.parameters:  # no base without parameters has fused experts
        from lora_cli.peft.experts import as_loaded

        adapter, refused = as_loaded(adapter, base)
    config, pairs, keys = adapter.config, adapter.pairs, adapter.keys
    # Replicated layers are built again by their numbers: that such modules exist is taken on trust, and their shapes.
    known = None if base is None or (config is not None and config.layer_replication) else base
    shapes, wrapped = dict[str, tuple[int, ...]](), dict[str, str]()
    if config is not None and config.target_parameters and known is not None:
        for path, one in known.modules.items():
            shapes[f"{path}.weight"] = (one.d_out, one.d_in) if one.kind == "linear" else (one.d_in, one.d_out)
        shapes |= known.parameters
        wrapped = wrapped_parameters(config, shapes)
    elif config is not None and config.target_parameters:
        parents = Endings(name.rpartition(".")[0] for name in config.target_parameters)
        wrapped = {module: "" for module in pairs if "" in parents.names or without_wrappers(module) in parents}

    modules: Mapping[str, BaseModule] = {} if known is None else known.modules
    found = tuple(m for m in pairs if known is None or m in modules or m in wrapped)
    others = [] if known is None else [m for m in pairs if m not in modules and m not in wrapped]
    beyond = frozenset() if known is None else _beyond(others, known)
    chosen, target_error = _chosen(config, known, found)
    errors = [target_error] if target_error is not None else []
    untargeted = () if chosen is None else tuple(m for m in found if m not in chosen and m not in wrapped)
    misnamed = tuple(m for m in found if any(dropped_for(keys[factor.name]) for factor in pairs[m].factors))
    left_out, missing = {*untargeted, *misnamed}, list[str]()
    if config is not None and known is not None and chosen is not None:
        # PEFT stores the factors of tied modules once, under either of their names.
        tied = EMBEDDING_NAMES | OUTPUT_NAMES if config.ensure_weight_tying else frozenset()
        wanted = [*(one for one in modules if one in chosen), *wrapped]
        missing = [one for one in wanted if one not in pairs and last_name(one) not in tied]

    expected, ranks = dict[str, tuple[BaseModule, ...]](), dict[str, int]()
    for module in found if known is not None else ():
        if module in wrapped:
            d_in, d_out = shapes[wrapped[module]][-2:]
            expected[module] = BaseModule(d_in, d_out), BaseModule(d_out, d_in)
        else:
            expected[module] = (modules[module],)
    places = {module: place for module in found if (place := wrapped.get(module, module))}
    is_valid = config is not None and config.r > 0 and not config.mistyped.keys() & {*SCALE_FIELDS}
    if config is not None and is_valid and places and all(rank > 0 for rank in config.rank_pattern.values()):
        is_stored = config is stored.config and pairs.keys() == stored.pairs.keys() and not wrapped
        of_places, error = (of_modules, scales_error) if is_stored else _scales(config, places.values())
        errors += [error] if error is not None else []
        for module, place in places.items() if error is None else ():
            # A fused parameter [experts, …] has the factors of all experts side by side: r rows for each.
            shape = shapes[place] if module in wrapped else ()
            ranks[module] = of_places[place].r * (shape[0] if len(shape) == 3 else 1)
    return Application(
        adapter=adapter,
        base=base,
        found=found,
        beyond=tuple(module for module in others if module in beyond),
        absent=tuple(module for module in others if module not in beyond),
        misnamed=misnamed,
        untargeted=untargeted,
        matched=tuple(module for module in found if module not in left_out),
        missing=tuple(missing),
        ranks=ranks,
        expected=expected,
        errors=tuple(errors),
        refused=refused,
        scales=of_modules,
        scales_error=scales_error,
    )


def _scales(config: LoraConfig | None, modules: Iterable[str]) -> tuple[Mapping[str, Scale], FormatError | None]:
    """Rank, alpha and scale of modules by the config (empty without one), and why they are unknown."""
    try:
        return ({} if config is None else scales(config, modules)), None
    except FormatError as error:
        return {}, error


def _chosen(
    config: LoraConfig | None, base: BaseModel | None, found: Sequence[str]
) -> tuple[frozenset[str] | None, FormatError | None]:
    """The modules of the base, or without one those found, that the config targets; None if unknown, and why."""
    if config is None or (base is None and config.target_modules is None):
        return None, None
    try:
        return (targeted(config, found, linear=found) if base is None else targeted_in(config, base)), None
    except FormatError as error:
        return None, None if config.target_modules is None else error


def _beyond(modules: Iterable[str], base: BaseModel) -> frozenset[str]:
    """The modules that the base would have if it had more layers: the first number in their path is too high."""
    ours = {_FIRST_INDEX.sub("#", path, count=1) for path in base.modules}
    found = {module: _FIRST_INDEX.search(module) for module in modules}
    numbers = {one: at.group() for one, at in found.items() if at and _FIRST_INDEX.sub("#", one, count=1) in ours}
    return frozenset(one for one, number in numbers.items() if len(number) >= 10 or int(number) >= base.num_layers)


def dropped_for(key: Key) -> str:
    """Why PEFT would not find a tensor of this name in its model; empty if it would."""
    if key.infixes:
        wrappers = " and ".join(f"{infix}." for infix in key.infixes)
        return f"the name contains {cut(wrappers)}, added by a wrapper"
    if not key.prefix:
        return f"the name does not start with {PEFT_PREFIX}"
    if key.prefix != PEFT_PREFIX:
        return f"the name starts with {cut(key.prefix)}"
    if key.adapter_name and key.part in {"saved", "trainable_tokens"}:
        return f"the name contains {cut(key.adapter_name)}, as in memory, but PEFT looks for the module's own name"
    if key.adapter_name not in {"", DEFAULT_NAME}:
        return f"the name contains the in-memory adapter name, {cut(key.adapter_name)}"
    return ""


def misshapen(application: Application) -> dict[str, list[str]]:
    """The modules of the base whose factors have other shapes, each with the differences."""
    found = dict[str, list[str]]()
    for module, wanted in application.expected.items():
        by_layout = [list(_differences(application.adapter.pairs[module], one)) for one in wanted]
        if by_layout and all(by_layout):
            found[module] = by_layout[0]
    return found


def _differences(pair: LoraPair, wanted: BaseModule) -> Iterator[str]:
    if pair.embedding != (wanted.kind == "embedding"):
        mine, its = ("an embedding", "a linear layer") if pair.embedding else ("a linear layer", "an embedding")
        yield f"the tensors are those of {mine}, but the module of the base is {its}"
        return
    needs = {"A": (1, wanted.d_in, "[r, {}]"), "B": (0, wanted.d_out, "[{}, r]")}
    for name, factor in pair.named.items():
        axis, width, form = needs[name[-1]]
        if len(factor.shape) == 2 and factor.shape[axis] != width:
            yield f"{name} is {list(factor.shape)}, the base needs {form.format(width)}"


def highest_rank(adapter: Adapter) -> tuple[str, int, Location] | None:
    """The highest rank: (field or module, rank, location); None if neither config nor tensors have a rank."""
    config = adapter.config
    ranks: list[tuple[int, str, Location]] = []
    if config is not None:
        pattern = max(config.rank_pattern, key=lambda key: config.rank_pattern[key], default=None)
        if pattern is not None:
            ranks.append((config.rank_pattern[pattern], f"rank_pattern {cut(pattern)}", Location(config.file, "r")))
        r = config.mistyped.get("r")  # engines also compare a fraction
        r = int(r) if isinstance(r, float) and math.isfinite(r) else config.r
        ranks.append((r, "r", Location(config.file, "r")))
    plain = (module for module in adapter.pairs if not is_fused(adapter, module))
    module = max(plain, key=lambda module: adapter.pairs[module].rank or 0, default=None)
    if module is not None:
        ranks.append((adapter.pairs[module].rank or 0, module, Location(adapter.weight_files[0], cut(module))))
    if not ranks:
        return None
    rank, where, at = max(ranks, key=lambda one: one[0])
    return where, rank, at


def is_fused(adapter: Adapter, module: str) -> bool:
    """Whether the factors of all experts are in one tensor, with ``r`` rows for each."""
    return adapter.config is not None and bool(adapter.config.target_parameters) and leaf_of(module) == EXPERTS
