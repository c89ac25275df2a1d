"""Fields of the config that say the right thing in the wrong type: a number as text, null if a word belongs."""

import json
import math
from collections.abc import Mapping
from typing import Any

from lora_cli.core.lora_config import LoraConfig
from lora_cli.repair.draft import Change

WHY = "its type is not valid, and engines miscalculate with it or refuse it"
NUMBERS = ("r", "lora_alpha")
EMPTY: Mapping[str, Any] = {"bias": "none", "rank_pattern": {}, "alpha_pattern": {}}
"""What PEFT means by null in these, and by whatever else is empty in a pattern."""


def sound_fields(config: Mapping[str, Any], parsed: LoraConfig) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """The config with fields of the right types, as far as they say what they mean, and what changed."""
    sound, changes = dict(config), []
    for name in NUMBERS:
        if name in parsed.mistyped and (number := _number(config[name])) is not None:
            sound[name] = number
            changes.append(Change("fields", f"{name} written as the number {number}", WHY))
    for name, empty in EMPTY.items():
        value = config.get(name, empty)
        if value is None or (empty == {} and not value and not isinstance(value, Mapping)):
            sound[name] = empty
            was = json.dumps(value)
            changes.append(Change("fields", f"{name} written as {json.dumps(empty)} instead of {was}", WHY))
    method = config.get("peft_type")
    if method is None or (isinstance(method, str) and method != "LORA" and method.strip().upper() == "LORA"):
        sound["peft_type"] = "LORA"
        changes.append(Change("fields", "peft_type is LORA", "engines and PEFT check it, and these are LoRA factors"))
    return sound, tuple(changes)


def _number(value: Any) -> int | float | None:
    """The number that a text is, or a fraction that is a whole one."""
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
