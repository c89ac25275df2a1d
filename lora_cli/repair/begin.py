"""An adapter as it was read → the draft that the steps work on: every update under its module's path, with its scale.

Tensors get the names that PEFT writes to disk: what training left in them (an adapter's name, the components of
wrappers, a prefix that is missing or appears twice) is gone with this.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from lora_cli.core.adapter import LoraPair
from lora_cli.core.patterns import Endings
from lora_cli.core.target_modules import scales, wrapped_parameters
from lora_cli.core.tensor_keys import INFIXES, PAIR_PARTS, PEFT_PREFIX, Key, without_wrappers
from lora_cli.core.text import counted
from lora_cli.engines.fixes import SAVE_AGAIN
from lora_cli.errors import FormatError
from lora_cli.repair.draft import Aim, Draft, Factors, copy_of

MOST_REFUSALS = 20
WHY = "engines and PEFT look up tensors by the names that PEFT writes"


def begin(aim: Aim, config: Mapping[str, Any]) -> Draft:
    """The draft of ``aim.adapter``; ``config`` is the JSON object of its config, with fields that can be read."""
    keys, tensors = aim.adapter.keys, aim.adapter.tensors
    others = {canonical(key): copy_of(tensors[name]) for name, key in keys.items() if key.part not in PAIR_PARTS}
    draft = Draft(config, {}, others)
    fused = _fused(aim)
    places = {module: fused.get(module, module) or module for module in aim.adapter.pairs}
    try:
        by_place = scales(aim.parsed, places.values())
    except FormatError as error:
        return draft.refused(
            f"{error.where}: {error.reason}", error.hint or "write the values that it was trained with"
        )
    factors: dict[str, Factors] = {}
    unsound: dict[str, list[str]] = {}
    for module, pair in aim.adapter.pairs.items():
        scale = by_place[places[module]]
        if (wrong := _unsound(pair, scale.r, aim, fused=module in fused)) != "":
            unsound.setdefault(wrong, []).append(module)
        elif pair.a is not None and pair.b is not None:
            plain = module not in fused and not _in_blocks(aim)
            factors[module] = Factors(copy_of(pair.a), copy_of(pair.b), scale.scaling, pair.embedding, plain)
    for wrong, modules in islice(unsound.items(), MOST_REFUSALS):
        also = f", and {counted(len(modules) - 1, 'more module')}" if len(modules) > 1 else ""
        draft = draft.refused(f"{modules[0]}: {wrong}{also}", SAVE_AGAIN)
    if left := sum(map(len, islice(unsound.values(), MOST_REFUSALS, None))):
        draft = draft.refused(f"{left} more modules have no known update", SAVE_AGAIN)
    return _named(replace(draft, factors=factors, before=factors), aim)


def _unsound(pair: LoraPair, r: int, aim: Aim, *, fused: bool) -> str:
    """Why this update is unknown; empty when it is one."""
    if pair.a is None or pair.b is None:
        return f"lora_{'A' if pair.a is None else 'B'} is missing"
    if len(pair.a.shape) != 2 or len(pair.b.shape) != 2:
        return "a factor is not a matrix"
    if fused or _in_blocks(aim):
        return ""
    if pair.a.shape[0] != pair.b.shape[1]:
        return f"lora_A has rank {pair.a.shape[0]}, but lora_B {pair.b.shape[1]}"
    if pair.a.shape[0] != r:
        return f"its rank is {pair.a.shape[0]}, but {r} in the config: the trained scale is unknown"
    return ""


def _in_blocks(aim: Aim) -> bool:
    """Whether factors may have other shapes than LoRA's own."""
    return aim.parsed.use_bdlora is not None or aim.parsed.use_qalora


def _fused(aim: Aim) -> dict[str, str]:
    """Modules whose factors are on bare parameters, to that parameter ("" where no base is known)."""
    named = aim.parsed.target_parameters
    if not named:
        return {}
    if aim.base is None:
        parents = Endings(name.rpartition(".")[0] for name in named)
        return dict.fromkeys((m for m in aim.adapter.pairs if without_wrappers(m) in parents), "")
    weights = (f"{path}.weight" for path in aim.base.modules)
    wrapped = wrapped_parameters(aim.parsed, [*weights, *aim.base.parameters])
    return {module: wrapped[module] for module in aim.adapter.pairs if module in wrapped}


def canonical(key: Key) -> str:
    """The name that PEFT writes to disk for what ``key`` is."""
    if key.canonical or key.part == "unknown":
        return key.name
    components = [one for one in key.name.split(".") if one not in INFIXES]
    rest = ".".join(components).removeprefix("module.")
    while rest.startswith(PEFT_PREFIX):
        rest = rest.removeprefix(PEFT_PREFIX)
    if key.adapter_name and key.part == "saved":
        rest = rest.replace(f".modules_to_save.{key.adapter_name}.", ".", 1)
    elif key.adapter_name:
        head, tail = rest[: len(key.module)], rest[len(key.module) :]
        rest = head + tail.replace(f".{key.adapter_name}", "", 1)
    return PEFT_PREFIX + rest


def _named(draft: Draft, aim: Aim) -> Draft:
    """Notes what was wrong with names, and refuses where two tensors would have one."""
    keys = aim.adapter.keys
    for what, odd in _oddities(keys):
        draft = draft.changed("names", what, WHY, len({key.module for key in odd}))
    count = sum(1 for key in keys.values() if key.part in PAIR_PARTS)
    paired = sum((pair.a is not None) + (pair.b is not None) for pair in aim.adapter.pairs.values())
    if paired < count or len(draft.others) < len(keys) - count:
        draft = draft.refused("two tensors have equivalent names", SAVE_AGAIN)
    return draft


def _oddities(keys: Mapping[str, Key]) -> Iterator[tuple[str, list[Key]]]:
    known = [key for key in keys.values() if key.part != "unknown"]
    for what, odd in (
        (f"the prefix {PEFT_PREFIX} added to names without it", [key for key in known if not key.prefix]),
        (f"the repeated prefix {PEFT_PREFIX} removed", [key for key in known if len(key.prefix) > len(PEFT_PREFIX)]),
        ("the adapter's own name removed from names", [key for key in known if key.adapter_name]),
        ("prefixes of wrappers removed from names", [key for key in known if key.infixes]),
    ):
        if odd:
            yield what, odd
