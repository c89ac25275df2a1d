"""Text for people: escaped for terminals and logs; counts, sizes, times and names in words; what was probably meant."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

LONGEST_NAME = 161
"""Columns of a name in a message: 80 characters of either end."""

_LINE_BEGINS = "(^|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029])"
_BLANK = r"(?:\s|\x1b\[[0-9;]*m)*"
"""Text that may precede a command: blanks, and colours, which a log may be shown without."""


def safe(text: object) -> str:
    r"""``text`` on one line, with control, bidirectional and other invisible characters written as escapes.

    What an adapter calls its tensors must not move the reader's cursor.
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in string)


def escape_ci_commands(text: str) -> str:
    """``text`` for a console that a CI server listens to: no line of it is a command to that.

    GitHub Actions takes one from a line that begins with ``::``, Azure Pipelines, TeamCity and GitHub too from ``##[``,
    ``##vso[`` and ``##teamcity[`` wherever they are; what an adapter is called must not set a variable there. A line
    begins behind whatever some reader takes for the end of one.
    """
    if "::" not in text and "##" not in text:
        return text
    quiet = re.sub(rf"{_LINE_BEGINS}({_BLANK}):(?=:)", r"\1\2\\x3a", text, flags=re.MULTILINE)
    return re.sub(r"##(?=\w*\[)", r"#\\x23", quiet)


def safe_lines(text: str) -> str:
    r"""``text`` of one line or more, which only ``\n`` ends, as both of them may have it."""
    return "\n".join(escape_ci_commands(safe(line)) for line in text.split("\n"))


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 error``, ``2 errors``, ``no errors``; ``plural`` where an s does not make it."""
    return f"{number or 'no'} {noun if number == 1 else plural or noun + 's'}"


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


def size(number: int) -> str:
    """Bytes as people say them: ``512 B``, ``1.4 MiB``."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``4 s``, ``2 min 05 s``, ``1 h 02 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def milliseconds(value: float) -> str:
    """Three significant digits or so: ``0.31``, ``12.4``, ``1830``."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def between(values: Iterable[float | None], show: Callable[[float], str]) -> str:
    """The least and the most of the values that are known, as ``show``: ``0.5 to 2``; one where both read the same."""
    known = [value for value in values if value is not None]
    return " to ".join(dict.fromkeys((show(min(known)), show(max(known))))) if known else "-"


def span(numbers: Sequence[int]) -> str:
    """One number, or the least and the most: ``4``, ``2-8``."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"


def by_key(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """The second of each pair by the first, both in their order."""
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of texts in which commas and blanks separate them."""
    return [word for text in texts for word in text.replace(",", " ").split()]


LONGEST_WORD = 100
MOST, SIMILAR = 40, 4
"""Words that a hint lists at most, and how many of more words."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The word of ``known`` closest to ``word``, or None when none is close.

    Case, ``-`` and ``_`` are worth nothing (``maxLoras`` is close to ``max_loras``); a prefix counts as close.
    """
    from difflib import SequenceMatcher

    if len(word) > LONGEST_WORD:
        return None
    plain = _plain(word)
    best, best_ratio = None, 0.0
    for candidate in sorted(known):
        other = _plain(candidate)
        ratio = SequenceMatcher(None, plain, other).ratio()
        if len(plain) >= 3 and (other.startswith(plain) or plain.startswith(other)):
            ratio = max(ratio, 0.7)
        if ratio > best_ratio:
            best, best_ratio = candidate, ratio
    return best if best_ratio >= 0.6 else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint: the nearest known word, else all of them; of many the most similar ones."""
    words = sorted(known)
    close = nearest(word, words)
    if close:
        return f"did you mean {close}?"
    if len(words) <= MOST:
        return f"known: {', '.join(words)}"
    from difflib import get_close_matches

    similar = get_close_matches(word[:LONGEST_WORD], words, SIMILAR, cutoff=0) if word else words[:SIMILAR]
    return f"the most similar are {', '.join(similar)}; there are {len(words) - len(similar)} more"


def _plain(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")
