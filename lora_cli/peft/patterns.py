"""Names and regular expressions out of an adapter's config: matched as PEFT matches them, but only up to a time limit.

PEFT hands them to ``re``, which cannot be stopped: a few characters in a config hang it for ever. We match with
``regex``, which can, after ``re`` has agreed that the pattern is one. What the two read differently is refused.
"""

import re
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

from lora_cli.errors import FormatError

TIME_LIMIT_S = 3.0
"""Seconds that all matching for one adapter may take together."""

COMPARISON_S = 2.5e-7
"""The time that one comparison of two names is charged with, unmeasured: twelve million are the limit."""

MOST_SIZE = 200_000
"""Characters of all patterns of one adapter times their counted repetitions: ``regex`` unrolls them, 400 bytes each."""

TOO_SLOW = "PEFT itself would hang on it; use fewer patterns without nested repetitions, or list the modules"

LITERAL = re.compile(r"[\w.\- ]*", re.ASCII)
"""A name, maybe with dots, which match any character."""

_COUNTED = re.compile(r"\{([0-9]*)(?:,([0-9]*))?\}")
_READ_OTHERWISE = re.compile(r"\{(?![0-9]+\}|[0-9]*,[0-9]*\})|\[:")
"""A brace that counts nothing (text to ``re``, errors that ``regex`` allows), and the start of a class by its name."""


class Budget:
    """The time that matching may still take, and the patterns that were compiled for it."""

    def __init__(self) -> None:
        """A whole one."""
        self.limit_s = self.left_s = TIME_LIMIT_S
        self.compiled: dict[str, Any] = {}
        self.size = 0

    @property
    def spent(self) -> bool:
        """Whether no time is left, so that some question has no answer."""
        return self.left_s <= 0


_SHARED: ContextVar[Budget | None] = ContextVar("matching", default=None)


@contextmanager
def one_budget() -> Iterator[Budget]:
    """All matching in here shares one ``Budget``, whatever the caller; within another such block it is that one's."""
    budget = _SHARED.get() or Budget()
    token = _SHARED.set(budget)
    try:
        yield budget
    finally:
        _SHARED.reset(token)


class Matcher:
    """Matches patterns against names until its time, or that of ``one_budget`` around it, is up.

    ``where`` names the file and field in errors. What is no pattern, too large or too slow is a ``FormatError``.
    """

    def __init__(self, where: str) -> None:
        """Nothing is compiled before it is asked for."""
        self.where, self._budget = where, _SHARED.get() or Budget()

    def full(self, pattern: str, name: str) -> bool:
        """``re.fullmatch(pattern, name)``: how PEFT reads a string as ``target_modules`` or ``exclude_modules``."""
        return self._match("{}", pattern, name) is not None

    def dotted_end(self, pattern: str, name: str) -> bool:
        r"""``re.match(rf"(.*\.)?({pattern})$", name)``: how PEFT reads the keys of its patterns."""
        return self._match(r"(.*\.)?({})$", pattern, name) is not None

    def component(self, pattern: str, name: str) -> bool:
        r"""``re.match(rf"(^|.*\.){pattern}($|\..*)", name)``: how PEFT reads ``modules_to_save``."""
        return self._match(r"(^|.*\.){}($|\..*)", pattern, name) is not None

    def layer_index(self, pattern: str, name: str) -> int | None:
        """The first number after a component that matches ``pattern``: how PEFT reads ``layers_pattern``."""
        found = self._match(r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", pattern, name)
        return int(found["idx"]) if found is not None and len(found["idx"]) < 10 else None

    def charge(self, comparisons: int) -> None:
        """Takes so many comparisons off the time that is left: millions of quick ones are slow as well."""
        self._budget.left_s -= COMPARISON_S * comparisons
        if self._budget.spent:
            raise self._too_slow()

    def _too_slow(self) -> FormatError:
        return FormatError(f"matching takes longer than {self._budget.limit_s:g} s", where=self.where, hint=TOO_SLOW)

    def _match(self, frame: str, pattern: str, name: str) -> Any:
        self.charge(1)
        budget, begun, framed = self._budget, time.perf_counter(), frame.replace("{}", pattern, 1)
        try:
            if framed not in budget.compiled:
                budget.compiled[framed] = self._compile(framed, pattern)
            compiled = budget.compiled[framed]
            return (compiled.fullmatch if frame == "{}" else compiled.match)(name, timeout=budget.left_s)
        except TimeoutError as error:
            budget.left_s = 0.0  # by its own clock, which may be ahead of ours
            raise self._too_slow() from error
        finally:
            budget.left_s -= time.perf_counter() - begun

    def _compile(self, framed: str, pattern: str) -> Any:
        import regex

        said = repr(pattern if len(pattern) <= 80 else pattern[:79] + "…")
        size = len(pattern)
        for counts in _COUNTED.findall(pattern):
            size = min(size * max([1, *(int(count[:9]) for count in counts if count)]), MOST_SIZE + 1)
        self._budget.size += size
        if self._budget.size > MOST_SIZE:
            raise FormatError(f"with {said}, the regular expressions are too large", where=self.where)
        try:
            with warnings.catch_warnings():
                # Both warn of what a later version may read as a set operation; nothing that a user of ours can mend.
                warnings.simplefilter("ignore")
                re.compile(framed)
                compiled = regex.compile(framed, cache_pattern=size < 1000)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise FormatError(f"{said} is not a regular expression: {error}", where=self.where) from error
        if _READ_OTHERWISE.search(re.sub(r"\\.", "", pattern, flags=re.DOTALL)):
            raise FormatError(f"{said} has a brace that counts nothing, or [:", where=self.where)
        return compiled


def matching_keys(keys: Iterable[str], modules: Iterable[str], where: str) -> dict[str, list[str]]:
    """The keys of one pattern that match each module, in their order, as PEFT matches them (``Matcher.dotted_end``).

    Raises:
        FormatError: as ``Matcher``.
    """
    matcher, places = Matcher(where), {key: place for place, key in enumerate(keys)}
    patterns = [key for key in places if not LITERAL.fullmatch(key)]
    # A name is looked up by where its dots are, which are any character to PEFT.
    names: dict[tuple[int, ...], set[str]] = {}
    for key in places.keys() - patterns:
        names.setdefault((len(key), *(at for at, char in enumerate(key) if char == ".")), set()).add(key)
    found: dict[str, list[str]] = {}
    for module in modules:
        matcher.charge(len(names))
        matched = [key for key in patterns if matcher.dotted_end(key, module)]
        for (length, *dots), alike in names.items():
            start = len(module) - length
            if start == 0 or (start > 0 and module[start - 1] == "."):
                end = module[start:]
                for at in dots if end not in alike else ():
                    end = f"{end[:at]}.{end[at + 1 :]}"
                matched += [end] if end in alike else []
        found[module] = sorted(matched, key=places.__getitem__)
    return found


def endings(module: str) -> Iterator[str]:
    """The path of a module, and every ending of it after a dot, the longest first."""
    yield module
    dot = module.find(".")
    while dot >= 0:
        yield module[dot + 1 :]
        dot = module.find(".", dot + 1)


class Endings:
    """A module is in here where it has one of the names, or ends in one after a dot."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._longest = max(map(len, self.names), default=0)

    def __contains__(self, module: str) -> bool:
        return module in self.names or self.ends(module)

    def ends(self, module: str) -> bool:
        """Whether a proper dotted ending of ``module`` is one of the names."""
        return any(end in self.names for end in islice(endings(module[-self._longest - 1 :]), 1, None))
