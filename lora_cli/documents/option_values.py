"""The kinds of values that settings have: how a text is parsed, and what a settings file may hold."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cli.text import quoted
from lora_cli.units import parse_duration, parse_size

LONGEST_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """``parse`` reads a value and raises ``ValueError``; ``schema`` is the JSON Schema of one in a settings file."""

    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]


TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
FALSE = frozenset({"0", "false", "f", "no", "n", "off"})


def flag(value: object) -> bool:
    """True or false, in one of the usual words."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in TRUE | FALSE:
        return word in TRUE
    raise ValueError(f"{quoted(value)} is not true or false")


def whole(lowest: int, highest: int) -> Kind:
    """A whole number from ``lowest`` to ``highest``."""

    def parse(value: Any) -> int:
        text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if re.fullmatch(r"\d{1,9}", text, re.ASCII) and lowest <= int(text) <= highest:
            return int(text)
        raise ValueError(f"{quoted(value)} is not a whole number from {lowest} to {highest}")

    return Kind(parse, {"type": "integer", "minimum": lowest, "maximum": highest})


def positive_duration(value: Any) -> float:
    """Seconds, more than none and at most 11 days."""
    seconds = parse_duration(value)
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"{quoted(value)} is not above 0 and at most 11 days")
    return seconds


def path(value: Any) -> Path:
    """A path, as it is written."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"{quoted(value)} is not a path")
    return Path(value)


def endpoint(value: Any) -> str:
    """The address of a server, without a slash at its end."""
    text = value.strip().rstrip("/") if isinstance(value, str) else ""
    found = re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[^\s/?#@:]+)(:\d{1,5})?(/[^\s?#@]*)?", text, re.IGNORECASE)
    if found is None or not 0 < int((found[2] or ":80")[1:]) < 65536:
        # The value is not repeated: a user and password in it are what the pattern refuses.
        raise ValueError("this is not the address of a server: write https://HOST, without user, query or fragment")
    return text


SWITCH = Kind(flag, {"type": "boolean"})
DIRECTORY = Kind(path, {"type": "string"})
HUB = Kind(endpoint, {"type": "string"})
SIZE = Kind(
    parse_size,
    {"type": ["integer", "string"], "minimum": 0, "pattern": r"^[0-9]+(\.[0-9]+)? ?([KMGTPkmgtp][Ii]?)?[Bb]?$"},
)
DURATION = Kind(positive_duration, {"type": ["number", "string"]})
