"""Which modules of a base PEFT would apply the modules of an adapter to; and the highest rank of an adapter."""

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_cli.adapter.adapter import Adapter, LoraPair
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import PEFT_PREFIX, Key, last_name, leaf_of, without_wrappers
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.errors import FormatError
from lora_cli.finding import Applied, Location
from lora_cli.peft.experts import Unfit, as_loaded
from lora_cli.peft.patterns import Endings
from lora_cli.peft.targets import (
    EMBEDDING_NAMES,
    EXPERTS,
    OUTPUT_NAMES,
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
SCALE_FIELDS = frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"})
"""Fields without which ranks are unknown if they have the wrong type."""


@dataclass(frozen=True, slots=True)
class Application:
    """The modules of an adapter, sorted by what PEFT would do with them. Each module with a tensor is in one of these.

    ``adapter`` is the adapter as PEFT loads it on the base: separate experts are stacked if the base has fused ones;
    ``refused`` and ``unfit`` are as of ``as_loaded``.

    ``found`` exist in the base (without a base: all), ``beyond`` would if it had more layers, ``absent`` do not. Of the
    found, ``misnamed`` are dropped because of the form of their names, and ``untargeted`` because the config does not
    target them; ``matched`` are the rest. ``missing`` are modules of the base that the config targets and that have no
    tensors. ``ranks`` maps found modules to the rank in the config, ``expected`` to the module of the base (empty
    without a base; a fused parameter may have either of two orientations).

    ``errors`` are patterns of the config that could not be matched; what depends on them is empty. ``scales`` has rank,
    alpha and scale of the modules of the adapter as it is stored; ``scales_error`` says why they are unknown.
    """

    adapter: Adapter
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
    unfit: Unfit = ()
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
    stored, (by_module, error) = adapter, _scales(adapter.config, adapter.pairs)
    # No base without parameters has experts.
    no_change = adapter, None, ()
    adapter, refused, unfit = as_loaded(adapter, base) if base is not None and base.parameters else no_change
    config = adapter.config
    if base is not None and config is not None:
        # Layers are built again by their numbers: that such modules exist is taken on trust, and their shapes.
        base = None if config.layer_replication else base
    if base is not None and config is not None and config.target_parameters:
        weights = {
            f"{path}.weight": (one.d_out, one.d_in) if one.kind == "linear" else (one.d_in, one.d_out)
            for path, one in base.modules.items()
        }
        base = replace(base, parameters={**weights, **base.parameters})
    modules = tuple(adapter.pairs)
    known: Container[str] = adapter.pairs if base is None else base.modules
    wrapped = _wrapped(config, base, modules)
    found = tuple(module for module in modules if module in known or module in wrapped)
    others = [module for module in modules if module not in known and module not in wrapped]
    beyond = frozenset() if base is None else _beyond(others, base)
    chosen, target_error = _chosen(config, base, found)
    untargeted = () if chosen is None else tuple(m for m in found if m not in chosen and m not in wrapped)
    keys, pairs = adapter.keys, adapter.pairs
    misnamed = tuple(m for m in found if any(dropped_for(keys[factor.name]) for factor in pairs[m].factors))
    left_out = {*untargeted, *misnamed}
    missing, expected = list[str](), dict[str, tuple[BaseModule, ...]]()
    if config is not None and base is not None and chosen is not None:
        # PEFT stores the factors of tied modules once, under either of their names.
        tied = EMBEDDING_NAMES | OUTPUT_NAMES if config.ensure_weight_tying else frozenset()
        wanted = [*(one for one in base.modules if one in chosen), *wrapped]
        missing = [one for one in wanted if one not in pairs and last_name(one) not in tied]
    for module in found:
        if base is not None and module in wrapped:
            d_in, d_out = base.parameters[wrapped[module]][-2:]
            expected[module] = BaseModule(d_in, d_out), BaseModule(d_out, d_in)
        elif base is not None:
            expected[module] = (base.modules[module],)
    is_as_stored = config is stored.config and pairs.keys() == stored.pairs.keys()
    ranks, rank_error = _ranks(config, found, wrapped, base, (by_module, error) if is_as_stored else None)
    return Application(
        adapter=adapter,
        found=found,
        beyond=tuple(module for module in others if module in beyond),
        absent=tuple(module for module in others if module not in beyond),
        misnamed=misnamed,
        untargeted=untargeted,
        matched=tuple(module for module in found if module not in left_out),
        missing=tuple(missing),
        ranks=ranks,
        expected=expected,
        errors=tuple(one for one in (target_error, rank_error) if one is not None),
        refused=refused,
        unfit=unfit,
        scales=by_module,
        scales_error=error,
    )


def matched(adapter: Adapter, base: BaseModel | None) -> tuple[Application, BaseModel | None]:
    """``apply`` on ``base`` with the head that the adapter's task has, and that base."""
    if base is not None and adapter.config is not None:
        base = for_task(base, adapter.config.task_type, adapter.pairs, adapter.config.base_class)
    return apply(adapter, base), base


Scaled = tuple[Mapping[str, Scale], FormatError | None]
"""Rank, alpha and scale of modules by the config (empty without one), and why they are unknown."""


def _scales(config: LoraConfig | None, modules: Iterable[str]) -> Scaled:
    try:
        return ({} if config is None else scales(config, modules)), None
    except FormatError as error:
        return {}, error


def _wrapped(config: LoraConfig | None, base: BaseModel | None, modules: tuple[str, ...]) -> Mapping[str, str]:
    """The modules that wrap targeted parameters, to the parameter (empty if no base is known)."""
    if config is None or not config.target_parameters:
        return {}
    if base is None:
        parents = Endings(name.rpartition(".")[0] for name in config.target_parameters)
        return {module: "" for module in modules if "" in parents.names or without_wrappers(module) in parents}
    return wrapped_parameters(config, base.parameters)


def _beyond(modules: Sequence[str], base: BaseModel) -> frozenset[str]:
    """The modules that the base would have if it had more layers."""
    if not modules:
        return frozenset()
    ours = {(path[: index.start()], path[index.end() :]) for path, index in _numbered(base.modules)}
    return frozenset(
        module
        for module, index in _numbered(modules)
        if (module[: index.start()], module[index.end() :]) in ours
        and (len(index.group()) >= 10 or int(index.group()) >= base.num_layers)
    )


def _numbered(modules: Iterable[str]) -> Iterator[tuple[str, re.Match[str]]]:
    """The modules with a numbered component, each with the match of the first one."""
    return ((module, index) for module in modules if (index := _FIRST_INDEX.search(module)))


def _chosen(
    config: LoraConfig | None, base: BaseModel | None, found: tuple[str, ...]
) -> tuple[frozenset[str] | None, FormatError | None]:
    """The modules of the base, or without one of the adapter, that the config targets; None if unknown, and why."""
    if config is None:
        return None, None
    try:
        if base is not None:
            return targeted_in(config, base), None
        if config.target_modules is None and "target_modules" not in config.mistyped:
            return None, None
        return targeted(config, found, linear=found), None
    except FormatError as error:
        is_error = "target_modules" not in config.mistyped and config.target_modules is not None
        return None, error if is_error else None


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


def _ranks(
    config: LoraConfig | None,
    found: tuple[str, ...],
    wrapped: Mapping[str, str],
    base: BaseModel | None,
    known: Scaled | None,
) -> tuple[Mapping[str, int], FormatError | None]:
    """The rank of each module by the config; empty if its fields are invalid, and why its patterns are."""
    if config is None or config.mistyped.keys() & SCALE_FIELDS:
        return {}, None
    if config.r <= 0 or any(rank <= 0 for rank in config.rank_pattern.values()):
        return {}, None
    places = {module: wrapped.get(module, module) for module in found}
    named = [place for place in places.values() if place]
    by_place, error = known if known is not None and not wrapped else _scales(config, named)
    if error is not None:
        return {}, error if named else None
    # A fused parameter [experts, …] has the factors of all experts side by side: r rows for each.
    shapes = base.parameters if base is not None else {}
    experts = {path: shapes[path][0] if len(shapes[path]) == 3 else 1 for path in wrapped.values() if path}
    ranks = {module: by_place[place].r * experts.get(place, 1) for module, place in places.items() if place}
    return ranks, None


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
