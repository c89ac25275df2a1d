"""Features of where modules go, and of how the engine is deployed."""

from collections.abc import Iterator, Sequence

from lora_cli.core.finding import Location
from lora_cli.core.grouping import by_key
from lora_cli.core.keys import last_name
from lora_cli.core.text import counted, cut, names
from lora_cli.engines.profile import packed_in
from lora_cli.rules.features.feature import Found, Served
from lora_cli.rules.ranks import highest_rank
from lora_cli.rules.wording import MOST_PROBLEMS


def rank_above_max(served: Served) -> Iterator[Found]:
    """The highest rank, of the config or of a tensor, is above what the engine's slots have."""
    engine, given = served.profile.engine, served.deployment.max_lora_rank
    limit = given if given is not None else engine.default_rank
    if limit is None or (known := highest_rank(served.adapter)) is None:
        return
    where, highest, at = known
    if highest <= limit:
        return
    allowed = next((rank for rank in engine.ranks if rank >= highest), None if engine.ranks else highest)
    how = f"start {engine.title} with `{engine.rank_flag} {allowed}`"
    mend = how if allowed is not None else f"it takes none above {max(engine.ranks)}: train with a smaller rank"
    whose = "" if given is not None else f", which is what {engine.title} has unless it is set"
    yield Found(
        f"the rank is {highest} ({cut(where)}), and {engine.rank_flag} is {limit}{whose}",
        at,
        {"mend": mend, "rank": str(highest)},
    )


def padded_rank(served: Served) -> Iterator[Found]:
    """A rank that the engine's kernels pad: below 8 for each shard, or no multiple of 16 above that."""
    config, least = served.config, 8 * served.deployment.tp
    if config is None or len({last_name(module) for module in served.adapter.pairs}) < 2:
        return
    if config.r < least or (config.r > least and config.r % 16):
        to = least if config.r < least else -(-config.r // 16) * 16
        said = f"r is {config.r}, which is padded to {to} with a tensor-parallel size of {served.deployment.tp}"
        yield Found(said, Location(config.file, "r"))


def _of(served: Served, said: str, modules: Sequence[str], **fields: str) -> Iterator[Found]:
    if modules:
        yield Found(f"{said}: {names(modules)}", Location(served.case.weights_file, cut(modules[0])), fields)


def names_outside_grammar(served: Served) -> Iterator[Found]:
    """Names of tensors that a strict engine does not parse."""
    by_reason = by_key((why, name) for name, why in served.landing.outside.items())
    reasons = list(by_reason)
    for why in reasons[:MOST_PROBLEMS]:
        yield from _of(served, f"{counted(len(by_reason[why]), 'tensor')}, {why}", by_reason[why])
    rest = [name for why in reasons[MOST_PROBLEMS:] for name in by_reason[why]]
    yield from _of(served, f"{counted(len(rest), 'more tensor')}, for other reasons", rest)


def unexpected_modules(served: Served) -> Iterator[Found]:
    """Modules whose last name the engine's model has nowhere."""
    found = served.landing.unexpected
    leaves = sorted({last_name(module) for module in found})
    yield from _of(served, f"{counted(len(found), 'module')} called {names(leaves)}", found)


def nothing_lands(served: Served) -> Iterator[Found]:
    """Not one module has a place, although the engine takes all of their names."""
    landing = served.landing
    if not landing.applied:
        missed, total = [*landing.nowhere, *landing.partial], landing.counted.total
        why = next(iter(landing.nowhere.values()), "its kind is not there in every layer")
        yield from _of(served, f"0 of {counted(total, 'module')} apply, {why}", missed)


def partly_lands(served: Served) -> Iterator[Found]:
    """Some modules have a place and others have none."""
    landing = served.landing
    if landing.applied:
        why = next(iter(landing.nowhere.values()), "their kind is not there in every layer")
        yield from _of(served, f"{landing.counted} modules apply, {why}", [*landing.nowhere, *landing.partial])


def two_into_one(served: Served) -> Iterator[Found]:
    """Two modules are one where only the layer's number and the last name count."""
    return _of(served, "two modules have one layer and last name", served.landing.collisions)


def tower(served: Served) -> Iterator[Found]:
    """Modules of a part that LoRA does not reach unless the engine is told."""
    found = served.landing.towers
    return _of(served, f"{counted(len(found), 'module is', 'modules are')} in a tower", found)


def filtered(served: Served) -> Iterator[Found]:
    """Modules that the deployment puts no LoRA on. Of a packed set all have it where one has."""
    targets = served.deployment.lora_target_modules
    if targets is None or "all" in targets:
        return

    def whole(module: str) -> str:
        return packed_in(last_name(module)) or last_name(module)

    told = {whole(target) for target in targets}
    others = [module for module in served.adapter.pairs if whole(module) not in told]
    left_out = [module for module in others if not any(_under(module, target) for target in targets)]
    wanted = sorted({last_name(module) for module in served.adapter.pairs} | set(targets))
    yield from _of(served, f"{names(targets)} is all that has LoRA", left_out, wanted=" ".join(wanted))


def _under(module: str, target: str) -> bool:
    """Whether ``target`` names the module; ``experts`` names each projection of each expert."""
    return module == target or module.endswith(f".{target}") or (target == "experts" and ".experts." in module)


def base_without_lora(served: Served) -> Iterator[Found]:
    """The base is of a family for which the engine has no LoRA."""
    base = served.case.base
    if base is not None and base.model_type in served.profile.engine.no_lora:
        yield Found(f"the base is {cut(base.name)} ({base.model_type})", Location(served.case.weights_file))


def named_like_base(served: Served) -> Iterator[Found]:
    """The adapter's name is the one under which the base is served."""
    if served.deployment.served_model_name and served.adapter.name == served.deployment.served_model_name:
        yield Found(
            f"the adapter is called {cut(served.adapter.name)}, as the base", Location(served.case.weights_file)
        )


def pinned_beyond_slots(served: Served) -> Iterator[Found]:
    """As many adapters are pinned as one batch may hold."""
    pinned, slots = served.deployment.pinned, served.deployment.max_loras
    if slots is not None and pinned >= slots:
        said = f"{counted(pinned, 'adapter is', 'adapters are')} pinned, and max_loras is {slots}"
        yield Found(said, Location(served.case.weights_file), {"slots": str(pinned + 1)})
