"""Wording of messages: counts with their nouns, lists of names, shares and ratios, and values that nobody checked."""

import json
import math
from collections.abc import Sequence
from typing import Any

LONGEST_NAME = 161
"""Columns of a name in a message: 80 characters of either end."""


def counted(number: int, noun: str, plural: str = "", *, zero: str = "no") -> str:
    """``1 error``, ``2 errors``, ``no errors``; ``plural`` where an s does not make it."""
    return f"{number or zero} {noun if number == 1 else plural or noun + 's'}"


def names(items: Sequence[str], most: int = 3, width: int = LONGEST_NAME) -> str:
    """The first few of ``items``, each in so many columns, and how many more there are."""
    listed = ", ".join(cut(item, width) for item in items[:most])
    return f"{listed} and {len(items) - most} more" if len(items) > most else listed


def cut(text: str, width: int = LONGEST_NAME) -> str:
    """``text`` in so many columns: its middle goes, because names differ at their ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def shown(value: Any, width: int = 60) -> str:
    """A value as JSON for a message, on one line, cut to ``width`` columns; no more of it is written."""
    if isinstance(value, str):
        value = value[: width + 1]
        text = json.dumps(value) if value.isprintable() else ascii(value)
    else:
        text = beginning(value, width + 1)
    return text if len(text) <= width else text[: width - 1] + "…"


def beginning(value: Any, length: int) -> str:
    """At least the first ``length`` characters of a value as JSON, or all of it where it is shorter."""
    text = ""
    for chunk in json.JSONEncoder(default=str).iterencode(value):
        text += chunk[: length + 1]
        if len(text) > length:
            break
    return text


def quoted(value: object, width: int = 60) -> str:
    """``repr`` of a value that a person wrote, cut to ``width`` columns."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def brief(value: float) -> str:
    """A number at least 0 in at most four columns: ``123``, ``1.23``, ``.042``, ``4e-3``."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "nan"
    if value == 0:
        return "0"
    for least, digits in ((99.95, 0), (9.995, 1), (0.9995, 2), (0.00995, 3)):
        if least <= value < 9999.5:
            return f"{value:.{digits}f}".removeprefix("0")
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def percent(share: float) -> str:
    """A share as people say it: ``97 %``, ``0.42 %``."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or value == 0 else f"{value:.2g} %"


def share(part: int | None, whole: int) -> str:
    """How much of ``whole`` bytes: ``37%``, and ``100%`` only for all of them; ``unknown`` for None."""
    if part is None:
        return "unknown"
    percent = 100 * part // whole if whole else 100
    return "<1%" if part and not percent else f"{percent}%"


def times(ratio: float) -> str:
    """``4.1 times``, or ``1/5.2``."""
    return f"{ratio:.2g} times" if ratio >= 1 else f"1/{1 / ratio:.2g}"


def span(numbers: Sequence[int]) -> str:
    """One number, or the least and the most: ``4``, ``2-8``."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"
