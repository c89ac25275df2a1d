"""A config section → the values of a table's fields: bounded, typed, with the class's own defaults."""

from collections.abc import Mapping
from typing import Any

from lora_cli.core import parse
from lora_cli.core.architectures.expression import evaluate
from lora_cli.core.architectures.table import MAX_LAYERS, Default, Number, Values
from lora_cli.errors import FormatError


def read_fields(fields: Mapping[str, Default], section: Mapping[str, Any], where: str) -> Values:
    """Every field of ``fields`` out of ``section``; ``where`` is what the errors call the section.

    Raises:
        FormatError: a value is of the wrong type or beyond what any model has.
    """
    numbers: dict[str, int] = {}
    flags: dict[str, bool] = {}
    layers: dict[str, frozenset[int]] = {}
    for key, default in fields.items():
        if isinstance(default, bool):
            flags[key] = read_flag(section, key, default, where)
        elif isinstance(default, frozenset):
            if section.get(key) is not None:
                layers[key] = _layer_numbers(section[key], f"{where}: {key}")
        else:
            numbers[key] = _number(section, key, _in_full(default), numbers, where)
    return Values(numbers, flags, layers)


def read_flag(section: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    """A true-or-false field; an explicit null is false, as it is in the modelling code."""
    return parse.boolean(section.get(key, default) or False, f"{where}: {key}")


def _in_full(default: int | str | Number) -> Number:
    if isinstance(default, Number):
        return default
    return Number(default, null=default if isinstance(default, str) else "")


def _number(section: Mapping[str, Any], key: str, field: Number, above: Mapping[str, int], where: str) -> int:
    used = next((name for name in (key, *field.aliases) if name in section), None)
    at = f"{where}: {used or key}"
    given = field.default if used is None else section[used]
    default = field.null if given is None else field.default if used is None else ""
    if isinstance(default, str) and default:
        return _default(default, above, field, at)
    return parse.integer(given, at, minimum=field.minimum, maximum=field.maximum)


def _default(expression: str, above: Mapping[str, int], field: Number, at: str) -> int:
    value = evaluate(expression, above)
    if not field.minimum <= value <= field.maximum:
        raise FormatError(f"is not given, and {expression} makes it {value}", where=at)
    return value


def _layer_numbers(value: Any, where: str) -> frozenset[int]:
    numbers = parse.sequence(value, where)
    if len(numbers) > MAX_LAYERS:
        raise FormatError(f"lists {len(numbers)} layers, more than any model has", where=where)
    return frozenset(parse.integer(number, f"{where}[{i}]") for i, number in enumerate(numbers))
