"""Which modules of a base PEFT would apply the modules of an adapter to; and the highest rank of an adapter."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lora_cli.adapter.adapter import PEFT_PREFIX, Adapter, Key, LoraPair, last_name, leaf_of, without_wrappers
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

_INDEX = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")


@dataclass(slots=True)
class Application:
    """The modules of an adapter, sorted by what PEFT would do with them. Each module with a tensor is in one of these.

    ``adapter`` is the adapter as PEFT loads it on ``base``, which has the head of the adapter's task: separate experts
    are stacked if the base has fused ones; ``refused`` is why PEFT does not take its config.

    ``found`` exist in the base (without a base: all), ``beyond`` would if it had more layers, ``absent`` do not. Of the
    found, ``misnamed`` are dropped because of the form of their names, and ``untargeted`` because the config does not
    target them; ``matched`` are the rest. ``misshapen`` are those found whose factors have other shapes than the base
    needs, each with the differences; ``applied`` counts those matched that are not. ``missing`` are modules of the base
    that the config targets and that have no tensors. ``ranks`` maps found modules to the rank in the config.

    ``errors`` are patterns of the config that could not be matched; what depends on them is empty. ``scales`` has rank,
    alpha and scale of the modules of the adapter as it is stored; ``scales_error`` says why they are unknown.
    """

    adapter: Adapter
    base: BaseModel | None
    refused: FormatError | None = None
    found: tuple[str, ...] = ()
    beyond: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    misnamed: tuple[str, ...] = ()
    untargeted: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()
    missing: list[str] = field(default_factory=list)
    misshapen: dict[str, list[str]] = field(default_factory=dict)
    applied: Applied = field(default=Applied(0, 0))
    ranks: dict[str, int] = field(default_factory=dict)
    errors: list[FormatError] = field(default_factory=list)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    scales_error: FormatError | None = None

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
    if base is not None and adapter.config is not None:
        base = for_task(base, adapter.config.task_type, adapter.pairs, adapter.config.base_class)
    done = Application(adapter, base)
    try:
        done.scales = {} if adapter.config is None else scales(adapter.config, adapter.pairs)
    except FormatError as error:
        done.scales_error = error
    if base is not None and base.parameters:  # no base without parameters has fused experts
        from lora_cli.peft.experts import as_loaded

        done.adapter, done.refused = as_loaded(adapter, base)
    config, pairs, keys = done.adapter.config, done.adapter.pairs, done.adapter.keys
    # Replicated layers are built again by their numbers: that such modules exist is taken on trust, and their shapes.
    known = None if base is None or (config is not None and config.layer_replication) else base
    modules: Mapping[str, BaseModule] = {} if known is None else known.modules
    shapes, wrapped = dict[str, tuple[int, ...]](), dict[str, str]()
    if config is not None and config.target_parameters and known is not None:
        for path, one in modules.items():
            shapes[f"{path}.weight"] = (one.d_out, one.d_in) if one.kind == "linear" else (one.d_in, one.d_out)
        shapes |= known.parameters
        wrapped = wrapped_parameters(config, shapes)
    elif config is not None and config.target_parameters:
        parents = Endings(name.rpartition(".")[0] for name in config.target_parameters)
        wrapped = {module: "" for module in pairs if "" in parents.names or without_wrappers(module) in parents}

    done.found = tuple(m for m in pairs if known is None or m in modules or m in wrapped)
    if known is not None and (others := [m for m in pairs if m not in modules and m not in wrapped]):
        numbered = {_INDEX.sub("#", path) for path in modules}
        for module in others:  # beyond the base is one whose number in the path of a module is too high
            at = _INDEX.search(module) if _INDEX.sub("#", module) in numbered else None
            is_beyond = at is not None and (len(at[0]) >= 10 or int(at[0]) >= known.num_layers)
            (done.beyond if is_beyond else done.absent).append(module)
    chosen: frozenset[str] | None = None
    try:
        if config is not None and known is not None:
            chosen = targeted_in(config, known)
        elif config is not None and config.target_modules is not None:
            chosen = targeted(config, done.found, linear=done.found)
    except FormatError as error:
        done.errors += [error] if config is not None and config.target_modules is not None else []
    done.untargeted = () if chosen is None else tuple(m for m in done.found if m not in chosen and m not in wrapped)
    done.misnamed = tuple(m for m in done.found if any(dropped_for(keys[one.name]) for one in pairs[m].factors))
    left_out = {*done.untargeted, *done.misnamed}
    done.matched = tuple(module for module in done.found if module not in left_out)
    if config is not None and known is not None and chosen is not None:
        # PEFT stores the factors of tied modules once, under either of their names.
        tied = EMBEDDING_NAMES | OUTPUT_NAMES if config.ensure_weight_tying else frozenset()
        wanted = [*(one for one in modules if one in chosen), *wrapped]
        done.missing = [one for one in wanted if one not in pairs and last_name(one) not in tied]

    _measure(done, modules, wrapped, shapes)
    done.applied = Applied(sum(module not in done.misshapen for module in done.matched), len(pairs))
    return done


def _measure(
    done: Application, modules: Mapping[str, BaseModule], wrapped: dict[str, str], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Fill in which of the modules that were found have other shapes than those of the base, and their ranks.

    ``wrapped`` maps those of parameters to the parameter, and ``shapes`` that to its shape.
    """
    config, pairs = done.adapter.config, done.adapter.pairs
    has_other_shapes = config is not None and (config.use_bdlora or config.use_qalora)
    for module in done.found if modules and not has_other_shapes else ():
        layouts = [modules[module]] if module not in wrapped else []
        if not layouts:  # a fused parameter may have either of two orientations
            d_in, d_out = shapes[wrapped[module]][-2:]
            layouts = [BaseModule(d_in, d_out), BaseModule(d_out, d_in)]
        if all(by_layout := [list(_differences(pairs[module], one)) for one in layouts]):
            done.misshapen[module] = by_layout[0]
    places = {module: place for module in done.found if (place := wrapped.get(module, module))}
    is_valid = config is not None and config.r > 0 and not config.mistyped.keys() & {*SCALE_FIELDS}
    if config is not None and is_valid and places and all(rank > 0 for rank in config.rank_pattern.values()):
        try:
            known = done.scales if done.scales.keys() >= {*places.values()} else scales(config, places.values())
        except FormatError as error:
            done.errors.append(error)
            return
        for module, place in places.items():
            # A fused parameter [experts, …] has the factors of all experts side by side: r rows for each.
            shape = shapes[place] if module in wrapped else ()
            done.ranks[module] = known[place].r * (shape[0] if len(shape) == 3 else 1)


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


def _differences(pair: LoraPair, wanted: BaseModule) -> Iterator[str]:
    """How the shapes of a module's factors differ from what a module of the base needs."""
    if pair.embedding != (wanted.kind == "embedding"):
        mine, its = ("an embedding", "a linear layer") if pair.embedding else ("a linear layer", "an embedding")
        yield f"the tensors are those of {mine}, but the module of the base is {its}"
        return
    needs = {"A": (1, wanted.d_in, "[r, {}]"), "B": (0, wanted.d_out, "[{}, r]")}
    for factor in pair.factors:
        letter = "A" if factor is pair.a else "B"
        name, (axis, width, form) = f"lora_{'embedding_' * pair.embedding}{letter}", needs[letter]
        if len(factor.shape) == 2 and factor.shape[axis] != width:
            yield f"{name} is {list(factor.shape)}, the base needs {form.format(width)}"


def highest_rank(adapter: Adapter) -> tuple[str, int, Location] | None:
    """The highest rank: (field or module, rank, location); None if neither config nor tensors have a rank."""
    config, ranks = adapter.config, list[tuple[int, str, str]]()
    if config is not None:
        ranks += [(rank, f"rank_pattern {cut(key)}", config.file) for key, rank in config.rank_pattern.items()]
        r = config.mistyped.get("r")  # engines also compare a fraction
        ranks.append((int(r) if isinstance(r, float) and math.isfinite(r) else config.r, "r", config.file))
    pairs = ((module, pair.rank) for module, pair in adapter.pairs.items() if not is_fused(adapter, module))
    ranks += [(rank or 0, module, adapter.weight_files[0]) for module, rank in pairs]
    if not ranks:
        return None
    rank, where, file = max(ranks, key=lambda one: one[0])
    return where, rank, Location(file, cut(where) if file in adapter.weight_files else "r")


def is_fused(adapter: Adapter, module: str) -> bool:
    """Whether the factors of all experts are in one tensor, with ``r`` rows for each."""
    return adapter.config is not None and bool(adapter.config.target_parameters) and leaf_of(module) == EXPERTS
