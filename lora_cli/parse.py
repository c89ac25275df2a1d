"""Typed getters over values from untrusted JSON and YAML. Nothing is coerced; an error says where.

Every getter takes a value and ``where`` it is ("adapter_config.json: r") and gives the value back with its type, or
raises ``FormatError``. In JSON and YAML a boolean is never a number here, though Python says that it is.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, TypeVar

from lora_cli.errors import FormatError, TooLarge
from lora_cli.text import shown

T = TypeVar("T")

DEEPEST = 64
"""Levels of lists and objects in one JSON document: what looks at a value goes down with it, and no config has ten."""

MOST_VALUES = 400_000
"""Values in one JSON document: a config that names each of a large model's modules twice has half of them."""

LARGEST = int(sys.float_info.max)
"""The largest whole number that a float can hold."""

KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """The JSON type of a value in words: ``"a string"``, ``"null"``."""
    return KINDS.get(type(value), type(value).__name__)


def text(value: Any, where: str) -> str:
    """A string."""
    if isinstance(value, str):
        return value
    raise _wrong("a string", value, where)


def boolean(value: Any, where: str) -> bool:
    """True or false."""
    if isinstance(value, bool):
        return value
    raise _wrong("a boolean", value, where)


def integer(value: Any, where: str, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """An integer (not ``8.0`` or ``true``), within bounds when they are given."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong("an integer", value, where)
    if minimum is not None and value < minimum:
        raise FormatError(f"must be at least {minimum}, not {shown(value)}", where=where)
    if maximum is not None and value > maximum:
        raise FormatError(f"must be at most {maximum}, not {shown(value)}", where=where)
    return value


def number(value: Any, where: str) -> float:
    """A finite number; an integer stays an integer."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong("a number", value, where)
    if isinstance(value, int) and abs(value) > LARGEST:
        raise FormatError(f"must fit in a float, not {shown(value)}", where=where)
    if not math.isfinite(value):
        raise FormatError(f"must be finite, not {value}", where=where)
    return value


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An object whose keys are all strings (YAML allows others)."""
    if not isinstance(value, Mapping):
        raise _wrong("an object", value, where)
    for key in value:
        if not isinstance(key, str):
            raise _wrong("a string", key, f"{where}: the key {shown(key)}")
    return dict(value)


def sequence(value: Any, where: str) -> list[Any]:
    """A list."""
    if isinstance(value, list | tuple):
        return list(value)
    raise _wrong("a list", value, where)


def objects(value: Any, key: str) -> list[dict[str, Any]]:
    """The objects in the list that an object has under ``key``; what is missing or of another kind is passed over."""
    listed = value.get(key) if isinstance(value, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def list_of(item: Callable[[Any, str], T]) -> Callable[[Any, str], tuple[T, ...]]:
    """A getter for a list whose every item passes ``item``."""

    def getter(value: Any, where: str) -> tuple[T, ...]:
        return tuple(item(one, f"{where}[{i}]") for i, one in enumerate(sequence(value, where)))

    return getter


def map_of(item: Callable[[Any, str], T]) -> Callable[[Any, str], dict[str, T]]:
    """A getter for an object whose every value passes ``item``; the order is kept."""

    def getter(value: Any, where: str) -> dict[str, T]:
        return {key: item(one, f"{where}[{shown(key)}]") for key, one in mapping(value, where).items()}

    return getter


def required(fields: Mapping[str, Any], key: str, where: str) -> Any:
    """The value under ``key``, or an error that names what is missing."""
    if key not in fields:
        raise FormatError(f"{key} is missing", where=where)
    return fields[key]


def json_value(data: bytes, where: str, *, duplicates: list[str] | None = None) -> Any:
    """Any JSON value as Python's own reader gives it: UTF-8, of duplicate keys the last one wins.

    ``duplicates``, when given, collects the keys that appear twice in one object.

    Raises:
        FormatError: not UTF-8, not JSON, nested too deep, too many values, or a number with thousands of digits.
    """
    # Each value but the first stands behind one of these: with them memory stays in proportion.
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise TooLarge(f"not usable JSON: it may have over {MOST_VALUES} values", where=where)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(items)
        if duplicates is not None and len(seen) < len(items):
            times = Counter(key for key, _ in items)
            duplicates.extend(key for key in seen if times[key] > 1)
        return seen

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 at byte {error.start}", where=where) from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}"
        raise FormatError(f"not JSON: {error.msg} at {at}", where=where) from error
    except ValueError as error:
        raise FormatError("not usable JSON: a number is too long", where=where) from error
    except RecursionError as error:
        raise FormatError("not usable JSON: nested too deeply", where=where) from error
    levels, inside = 0, [value]
    while inside := [one for one in inside if isinstance(one, dict | list)]:
        if (levels := levels + 1) > DEEPEST:
            raise TooLarge("not usable JSON: nested too deeply", where=where)
        inside = list(chain.from_iterable(one.values() if isinstance(one, dict) else one for one in inside))
    return value


def json_object(data: bytes, where: str, *, duplicates: list[str] | None = None) -> dict[str, Any]:
    """A JSON object; see ``json_value``."""
    return mapping(json_value(data, where, duplicates=duplicates), where)


def _wrong(wanted: str, value: Any, where: str) -> FormatError:
    return FormatError(f"must be {wanted}, not {kind_of(value)}: {shown(value)}", where=where)
