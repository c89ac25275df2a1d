"""LC21x: the names and patterns of a config beside the modules that they are to match."""

from collections.abc import Iterator

from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.core.keys import WRAPPER, last_name
from lora_cli.core.patterns import PatternKeys, endings
from lora_cli.core.targets import HEADS
from lora_cli.core.text import cut, names
from lora_cli.errors import FormatError
from lora_cli.rules.case import Case
from lora_cli.rules.rule import NotChecked, rule
from lora_cli.rules.wording import grouped, shown

PATTERNS = ("rank_pattern", "alpha_pattern")


MOST_PARAMETERS = 16
"""Last names of ``target_parameters`` up to which patterns are matched with each on each module: experts have four."""

TOO_MANY = f"target_parameters has more than {MOST_PARAMETERS} last names, which are not compared with patterns"


def _places(case: Case) -> list[str] | None:
    """What PEFT matches the keys of patterns against: the adapter's modules, and the parameters that it is put on.

    None where these are too many.
    """
    config = case.config
    leaves = {last_name(name) for name in config.target_parameters or ()}
    if len(leaves) > MOST_PARAMETERS:
        return None
    modules = {module.removesuffix(WRAPPER) for module in case.adapter.pairs}
    return [*case.adapter.pairs, *(f"{module}.{leaf}" for module in sorted(modules) for leaf in sorted(leaves))]


@rule("LC210", "dead-pattern", Severity.WARNING, needs=("config", "weights"))
def dead_pattern(case: Case) -> Iterator[Problem | NotChecked]:
    """A name or pattern of the config matches nothing.

    *Why is this bad?* PEFT passes over it silently: a rank, an alpha, a target or an exclusion that was meant is
    not there. Mostly it is misspelt, or is of another base.

    *Fix*: correct it, or take it out.
    """
    config = case.config
    places, said = _places(case), []
    if places is None:
        yield NotChecked(TOO_MANY)
    else:
        for field in (field for field in PATTERNS if field not in config.mistyped):
            dead = PatternKeys(getattr(config, field), f"{config.file}: {field}").dead(places)
            said += [(f"{field} names what no module of the adapter is called", key) for key in dead]
    said += [(f"{field} names what no module of the base is called", name) for field, name in _dead_names(case)]
    yield from grouped(said, config.file, "name", "correct the name, or take it out")


def _dead_names(case: Case) -> Iterator[tuple[str, str]]:
    """Names in lists that no module of the base has, and layers beyond its last: (field, name)."""
    # As PEFT has it on the base: it rewrites the names of experts that the base has fused.
    config, base = case.application.adapter.config, case.base
    assert config is not None
    if base is None or case.application.absent or case.application.beyond:
        # Without a base there is nothing to name, and of another base's modules other rules tell.
        return
    heads = HEADS.get(config.task_type or "", ())
    called = {ending for module in base.modules for ending in endings(module)}
    for field in ("target_modules", "exclude_modules"):
        listed = getattr(config, field)
        if isinstance(listed, str) or listed is None or field in config.mistyped:
            continue
        for name in listed:
            if name.partition(".")[0] not in heads and name not in called:
                yield field, name
    layers = config.layers_to_transform
    chosen = (layers,) if isinstance(layers, int) else layers or ()
    if not config.layer_replication:
        yield from (("layers_to_transform", f"layer {layer}") for layer in chosen if layer >= base.num_layers)


@rule("LC211", "alpha-order", Severity.WARNING, needs=("config", "weights"))
def alpha_order(case: Case) -> Iterator[Problem | NotChecked]:
    """Several keys of ``alpha_pattern`` match one module and say different things.

    *Why is this bad?* PEFT takes the first, and sorts the keys when it saves: which one was first in training is not
    told any more, so the module may be scaled by another alpha than it was trained with. (Of ranks the tensors tell.)

    *Fix*: write keys that do not overlap.
    """
    config = case.config
    pattern = config.alpha_pattern if "alpha_pattern" not in config.mistyped else {}
    alphas = PatternKeys(pattern, f"{config.file}: alpha_pattern")
    places, said = _places(case) if len(set(pattern.values())) > 1 else [], []
    if places is None:
        yield NotChecked(TOO_MANY)
    for place in places or ():
        try:
            matched = list(alphas.matching(place))
        except FormatError:
            return
        if len({pattern[key] for key in matched}) > 1:
            few = names([f"{cut(key)} ({shown(pattern[key])})" for key in matched])
            said.append((f"{len(matched)} keys of alpha_pattern match, and PEFT takes the first: {few}", place))
    yield from (
        Problem(problem.message, Location(config.file, "alpha_pattern"), problem.hint)
        for problem in grouped(said, config.file, "module", "write keys that do not overlap")
    )
