"""Paths as an origin lists them, checked before anything is made of them. Nothing in them is trusted."""

import sys
from collections.abc import Iterable
from unicodedata import category

from lora_cli.errors import Refused

MOST_ENTRIES = 10_000
MOST_TEXT = 2 << 20
LONGEST_PATH = 1024
LONGEST_NAME = 255
# Control characters, surrogates, separators of lines and paragraphs; and what makes a text run the other way.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class ListingBudget:
    """The entries, and bytes of memory for their names, that one listing may still have."""

    def __init__(self, what: str, hint: str) -> None:
        """``what`` begins the message of an error, and ``hint`` says what to name instead."""
        self._what, self._hint, self._entries, self._text = what, hint, MOST_ENTRIES, MOST_TEXT

    def take(self, *names: str) -> None:
        """Count one more entry, and the text that is kept of it. Raises ``Refused`` if the listing is too long."""
        self._entries -= 1
        self._text -= sum(map(sys.getsizeof, names))
        if self._entries < 0 or self._text < 0:
            limit = f"has over {MOST_ENTRIES} entries" if self._entries < 0 else f"is over {MOST_TEXT} bytes long"
            raise Refused(f"{self._what}: its listing {limit}", hint=self._hint)


def check_listed(paths: Iterable[str], what: str) -> None:
    """Refuses a listing that could not be written below one folder; ``what`` begins the message of an error.

    Raises:
        Refused: a path is absolute, leads outside the adapter, appears twice, is a folder and a file at once, or holds
            what no file system or log should see.
    """
    seen: set[str] = set()
    for path in paths:
        check_path(path, what)
        if path in seen:
            raise _refused(what, path, "is listed twice")
        seen.add(path)
    for path in seen:
        end = path.find("/")
        while end >= 0:
            if path[:end] in seen:
                raise _refused(what, path[:end], "is both a file and a folder")
            end = path.find("/", end + 1)


def check_path(path: str, what: str) -> None:
    """Refuses one path that could not be written below a folder; raises as ``check_listed``."""
    parts = path.split("/")
    sizes = [len(part.encode(errors="surrogatepass")) for part in parts]
    faults = (
        (path.startswith("/"), "is absolute"),
        (".." in parts, "leads outside the adapter"),
        (not {"", "."}.isdisjoint(parts), "has an empty segment"),
        ("\\" in path, "contains a backslash"),
        (sum(sizes) + len(parts) - 1 > LONGEST_PATH or max(sizes) > LONGEST_NAME, "is too long"),
        (any(letter in _BIDI or category(letter) in _UNFIT for letter in path), "contains control characters"),
    )
    if wrong := next((fault for there, fault in faults if there), ""):
        raise _refused(what, path, wrong)


def _refused(what: str, path: str, wrong: str) -> Refused:
    shown = ascii(path) if len(path) <= 200 else ascii(path[:200]) + "…"
    hint = "nothing was read; the owner of the repository, bucket or mirror must fix it"
    return Refused(f"{what}: the listed path {shown} {wrong}", hint=hint)
