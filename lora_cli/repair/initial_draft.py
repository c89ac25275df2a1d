"""The config and the tensors as they were read → the first draft: each update under its module's path, with its scale.

Fields of the wrong type are rewritten, and tensors get the names that PEFT writes to disk: what training left in them
(an adapter's name, the components of wrappers, a prefix that is missing or appears twice) is removed.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from lora_cli.adapter.adapter import LoraPair
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import INFIXES, PAIR_PARTS, PEFT_PREFIX, Key, without_wrappers
from lora_cli.engines.profile import SAVE_AGAIN
from lora_cli.errors import FormatError
from lora_cli.peft.patterns import Endings
from lora_cli.peft.targets import scales, wrapped_parameters
from lora_cli.repair.draft import Change, Draft, RepairContext, UpdateRecipe, copy_of
from lora_cli.text import counted

WHY_TYPES = "its type is not valid, and engines miscalculate with it or refuse it"
NUMBERS, PATTERNS = ("r", "lora_alpha"), ("rank_pattern", "alpha_pattern")
EMPTY: Mapping[str, Any] = {"bias": "none", "rank_pattern": {}, "alpha_pattern": {}}
"""The values that PEFT uses for null, and in a pattern for any other empty value."""

MOST_REFUSALS = 20
WHY_NAMES = "engines and PEFT look up tensors by the names that PEFT writes"


def fix_field_types(config: Mapping[str, Any], parsed: LoraConfig) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """The config with fields of the right types, where their meaning is clear, and what changed."""
    fixed, changes = dict(config), []
    for name in NUMBERS:
        if name in parsed.mistyped and (number := _number(config[name])) is not None:
            fixed[name] = number
            changes.append(Change("fields", f"{name} written as the number {number}", WHY_TYPES))
    for name in PATTERNS:
        if name in parsed.mistyped and isinstance(config[name], Mapping):
            numbers = {key: one if (number := _number(one)) is None else number for key, one in config[name].items()}
            if numbers != config[name]:
                fixed[name] = numbers
                changes.append(Change("fields", f"{name} written with numbers", WHY_TYPES))
    for name, empty in EMPTY.items():
        value = config.get(name, empty)
        if value is None or (empty == {} and not value and not isinstance(value, Mapping)):
            fixed[name] = empty
            was = json.dumps(value)
            changes.append(Change("fields", f"{name} written as {json.dumps(empty)} instead of {was}", WHY_TYPES))
    method = config.get("peft_type")
    if method is None or (isinstance(method, str) and method != "LORA" and method.strip().upper() == "LORA"):
        fixed["peft_type"] = "LORA"
        changes.append(Change("fields", "peft_type is LORA", "engines and PEFT check it, and these are LoRA factors"))
    return fixed, tuple(changes)


def _number(value: Any) -> int | float | None:
    """The number that a string contains, or the integer that a float is equal to; else None."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str) or len(value) > 32:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def initial_draft(context: RepairContext) -> Draft:
    """The draft of the adapter as it was read."""
    keys, tensors = context.adapter.keys, context.adapter.tensors
    others = {canonical(key): copy_of(tensors[name]) for name, key in keys.items() if key.part not in PAIR_PARTS}
    draft = Draft(context.config, {}, others)
    fused = _fused(context)
    places = {module: fused.get(module, module) or module for module in context.adapter.pairs}
    try:
        by_place = scales(context.parsed, places.values())
    except FormatError as error:
        return draft.refused(
            f"{error.where}: {error.reason}", error.hint or "write the values that it was trained with"
        )
    factors: dict[str, UpdateRecipe] = {}
    unsound: dict[str, list[str]] = {}
    for module, pair in context.adapter.pairs.items():
        scale = by_place[places[module]]
        if (wrong := _why_unknown(pair, scale.r, context, fused=module in fused)) != "":
            unsound.setdefault(wrong, []).append(module)
        elif pair.a is not None and pair.b is not None:
            plain = module not in fused and not _in_blocks(context)
            factors[module] = UpdateRecipe(copy_of(pair.a), copy_of(pair.b), scale.scaling, pair.embedding, plain)
    for wrong, modules in islice(unsound.items(), MOST_REFUSALS):
        also = f", and {counted(len(modules) - 1, 'more module')}" if len(modules) > 1 else ""
        draft = draft.refused(f"{modules[0]}: {wrong}{also}", SAVE_AGAIN)
    if left := sum(map(len, islice(unsound.values(), MOST_REFUSALS, None))):
        draft = draft.refused(f"{left} more modules have no known update", SAVE_AGAIN)
    return _note_names(replace(draft, factors=factors, before=factors), context)


def _why_unknown(pair: LoraPair, r: int, context: RepairContext, *, fused: bool) -> str:
    """Why the trained update is unknown; empty if it is known."""
    if pair.a is None or pair.b is None:
        return f"lora_{'A' if pair.a is None else 'B'} is missing"
    if len(pair.a.shape) != 2 or len(pair.b.shape) != 2:
        return "a factor is not a matrix"
    if fused or _in_blocks(context):
        return ""
    if pair.a.shape[0] != pair.b.shape[1]:
        return f"lora_A has rank {pair.a.shape[0]}, but lora_B {pair.b.shape[1]}"
    if pair.a.shape[0] != r:
        return f"its rank is {pair.a.shape[0]}, but {r} in the config: the trained scale is unknown"
    return ""


def _in_blocks(context: RepairContext) -> bool:
    """Whether factors may have other shapes than LoRA's own."""
    return context.parsed.use_bdlora is not None or context.parsed.use_qalora


def _fused(context: RepairContext) -> dict[str, str]:
    """The modules whose factors are on a bare parameter, to that parameter (empty if no base is known)."""
    named = context.parsed.target_parameters
    if not named:
        return {}
    if context.base is None:
        parents = Endings(name.rpartition(".")[0] for name in named)
        return dict.fromkeys((m for m in context.adapter.pairs if without_wrappers(m) in parents), "")
    weights = (f"{path}.weight" for path in context.base.modules)
    wrapped = wrapped_parameters(context.parsed, [*weights, *context.base.parameters])
    return {module: wrapped[module] for module in context.adapter.pairs if module in wrapped}


def canonical(key: Key) -> str:
    """The name that PEFT writes to disk for the tensor of ``key``."""
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


def _note_names(draft: Draft, context: RepairContext) -> Draft:
    """The draft with a note of each kind of wrong name; refused if two tensors would have one name."""
    keys = context.adapter.keys
    for what, odd in _wrong_names(keys):
        draft = draft.changed("names", what, WHY_NAMES, len({key.module for key in odd}))
    count = sum(1 for key in keys.values() if key.part in PAIR_PARTS)
    paired = sum((pair.a is not None) + (pair.b is not None) for pair in context.adapter.pairs.values())
    if paired < count or len(draft.others) < len(keys) - count:
        draft = draft.refused("two tensors have equivalent names", SAVE_AGAIN)
    return draft


def _wrong_names(keys: Mapping[str, Key]) -> Iterator[tuple[str, list[Key]]]:
    known = [key for key in keys.values() if key.part != "unknown"]
    for what, odd in (
        (f"the prefix {PEFT_PREFIX} added to names without it", [key for key in known if not key.prefix]),
        (f"the repeated prefix {PEFT_PREFIX} removed", [key for key in known if len(key.prefix) > len(PEFT_PREFIX)]),
        ("the adapter's own name removed from names", [key for key in known if key.adapter_name]),
        ("prefixes of wrappers removed from names", [key for key in known if key.infixes]),
    ):
        if odd:
            yield what, odd
