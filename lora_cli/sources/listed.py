"""Paths as an origin lists them, judged before anything is made of them. Nothing in them is trusted."""

import re
from collections.abc import Iterable
from unicodedata import category

from lora_cli.errors import Refused

MOST_ENTRIES = 10_000
LONGEST_PATH = 1024
LONGEST_NAME = 255
# Control characters, surrogates, separators of lines and paragraphs; and what makes a text run the other way.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_listed(paths: Iterable[str], what: str) -> None:
    """Refuses a listing that could not be written below one folder; ``what`` begins the message of an error.

    Raises:
        Refused: a path is absolute, leads out of the adapter, stands there twice, is a folder and a file at once, or
            holds what no file system or log should see.
    """
    seen: set[str] = set()
    for path in paths:
        wrong = _wrong_with(path) or ("is listed twice" if path in seen else "")
        if wrong:
            raise _refused(what, path, wrong)
        seen.add(path)
    folders = {path[: found.start()] for path in seen for found in re.finditer("/", path)}
    for path in folders & seen:
        raise _refused(what, path, "is a file and a folder at once")


def _refused(what: str, path: str, wrong: str) -> Refused:
    shown = ascii(path) if len(path) <= 200 else ascii(path[:200]) + "…"
    hint = "nothing of it was read; whoever keeps the repository, the bucket or the mirror must mend that"
    return Refused(f"{what}: the listed path {shown} {wrong}", hint=hint)


def _wrong_with(path: str) -> str:
    """What makes a path unfit to be written below a folder, or nothing."""
    parts = path.split("/")
    size = len(path.encode(errors="surrogatepass"))
    longest = max(len(part.encode(errors="surrogatepass")) for part in parts)
    faults = (
        (path.startswith("/"), "is absolute"),
        (".." in parts, "leads out of the adapter"),
        (not {"", "."}.isdisjoint(parts), "has an empty part"),
        ("\\" in path, "holds a backslash"),
        (size > LONGEST_PATH or longest > LONGEST_NAME, "is too long"),
        (_has_unfit(path), "holds control characters"),
    )
    return next((fault for there, fault in faults if there), "")


def _has_unfit(path: str) -> bool:
    if path.isascii():
        return not path.isprintable()
    return any(character in _BIDI or category(character) in _UNFIT for character in path)
