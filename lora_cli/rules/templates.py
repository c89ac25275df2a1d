"""What no chat template needs: found in its code, in time that grows with its length and no faster."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, pairwise

CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}"}
"""How a tag of a template begins and ends; all else is text."""

_OPENING = re.compile(r"\{[{%#]")
_CALL = re.compile(r"range\s*+\(([^()]*+)")
_LARGE = re.compile(r"(?:^|,)\s*+\d{6}")
_LONG_LOOP = re.compile(r"range\s*+\(\s*+\d{4}")

Find = Callable[[str], str]
"""What of a template's code is hostile, or nothing."""


def _search(pattern: str, code: str) -> str:
    found = re.search(pattern, code)
    return found.group() if found else ""


def _spelt_out(code: str) -> str:
    """A text of ``%c`` that is formatted: characters by their numbers."""
    for text, after in pairwise(re.split("['\"]", code)):
        at = text.lower().find("%c")
        if at >= 0 and after.lstrip().startswith(("|", "%")):
            return text[at:]
    return ""


def _large_range(code: str) -> str:
    return next((call.group() for call in _CALL.finditer(code) if _LARGE.search(call[1])), "")


def _nested_loops(code: str) -> str:
    loops = list(islice(_LONG_LOOP.finditer(code), 2))
    return loops[1].group() if len(loops) == 2 else ""


HOSTILE: tuple[tuple[Find, str], ...] = (
    (partial(_search, r"__\w+__"), "reaches for Python's internals"),
    (
        partial(_search, r"['\"]__[A-Za-z]|[A-Za-z]__['\"]|['\"]__['\"]|['\"]_['\"]\s*+\*"),
        "puts the names of Python's internals together",
    ),
    (partial(_search, r"(?i)\\(?:x5f|u005f|U0000005f|137|N\{low line\})"), "hides names behind escapes"),
    (_spelt_out, "hides names behind escapes"),
    (partial(_search, r"\|\s*+attr\b|\battr\s*+\("), "looks up attributes by computed names"),
    (
        partial(
            _search,
            r"\|\s*+(?:map|sort|sum|min|max|unique|groupby)\s*+\(\s*+attribute\s*+=\s*+[^'\"\s]"
            r"|\|\s*+(?:select|reject)attr\s*+\(\s*+[^'\"\s]",
        ),
        "looks up attributes by computed names",
    ),
    (partial(_search, r"\{%[-+]?\s*+(?:include|import|from|extends)\b"), "loads other templates"),
    (partial(_search, r"\blipsum\b"), "uses a global of Jinja's that leads to its modules"),
    (_large_range, "makes something of millions of elements"),
    (partial(_search, r"\*\s*+\d{6}|\*\*\s*+\d"), "makes something of millions of elements"),
    (_nested_loops, "loops over thousands of thousands"),
)
"""What no template for chat needs. Sources: known ways out of Jinja's sandbox; CVE-2024-34359, CVE-2025-61620.

A pattern repeats nothing that its own next part could begin with, so that it never goes back.
"""


def hostile_in(template: str) -> Iterator[tuple[str, str]]:
    """What of ``template`` is hostile: in words, and as it stands there."""
    code = "\n".join(_tags(template))
    for find, what in HOSTILE:
        if found := find(code):
            yield what, found


def _tags(template: str) -> Iterator[str]:
    """What of a template is code, in one pass; what is never closed is taken for code to its end."""
    at = 0
    while opening := _OPENING.search(template, at):
        closing = CLOSING[opening.group()]
        end = template.find(closing, opening.end())
        at = len(template) if end < 0 else end + len(closing)
        if closing != "#}":
            yield template[opening.start() : at]
