"""Values as operators write them: sizes, durations, and the kinds that settings have."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cli.text import quoted

LONGEST_S = 1_000_000
TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
FALSE = frozenset({"0", "false", "f", "no", "n", "off"})

_NUMBER = r"\d+(?:\.\d+)?"
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _text(value: object) -> str:
    """A text or number as it is written; "" for anything else, and for what is longer than any value."""
    text = str(value).strip() if type(value) in {str, int, float} else ""
    return text if len(text) <= 40 else ""


def parse_size(value: str | int) -> int:
    """Bytes in ``"8GiB"``, ``"8Gi"`` (powers of 1024), ``"500MB"``, ``"500M"`` (powers of 1000) or a bare number.

    A fraction is rounded down to whole bytes.

    Raises:
        ValueError: it is none of these.
    """
    found = re.fullmatch(r"(\d+)(?:\.(\d+))?\s*(?:([KMGTP])(I)?)?B?", _text(value), re.IGNORECASE | re.ASCII)
    if found is None or isinstance(value, float):
        raise ValueError(f"{quoted(value)} is not a size: write 2GiB, 500MB or a number of bytes")
    whole, fraction, unit, binary = found[1], found[2] or "", found[3] or "", found[4]
    factor = (1024 if binary else 1000) ** (" KMGTP".index(unit.upper() or " "))
    return int(whole + fraction) * int(factor) // int(10 ** len(fraction))


def parse_duration(value: str | float) -> float:
    """Seconds in ``"30s"``, ``"500ms"``, ``"2m"``, ``"1h30m"``, ``"7d"`` or a bare number of seconds.

    Raises:
        ValueError: it is none of these.
    """
    if not re.fullmatch(rf"{_NUMBER}|(?:{_NUMBER}(?:ms|[smhd]))++", text := _text(value), re.ASCII):
        raise ValueError(f"{quoted(value)} is not a duration: write 30s, 500ms, 1h30m or a number of seconds")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(rf"({_NUMBER})(ms|[smhd]?)", text))


def advised(error: ValueError) -> tuple[str, str]:
    """The two halves of an error that is raised here: what is wrong, and what to write instead ("" if not said)."""
    message, write, advice = str(error).partition(": write ")
    return message, f"write {advice}" if write else ""


@dataclass(frozen=True, slots=True)
class Kind:
    """``parse`` reads a value and raises ``ValueError``; ``schema`` is the JSON Schema of one in a settings file."""

    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]


def parse_whole(lowest: int, highest: int, value: Any) -> int:
    """A whole number from ``lowest`` to ``highest``; raises ``ValueError``."""
    if re.fullmatch(r"\d{1,9}", text := _text(value), re.ASCII) and lowest <= int(text) <= highest:
        return int(text)
    raise ValueError(f"{quoted(value)} is not a whole number from {lowest} to {highest}")


def flag(value: object) -> bool:
    """True or false, in one of the usual words."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in TRUE | FALSE:
        return word in TRUE
    raise ValueError(f"{quoted(value)} is not true or false")


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
