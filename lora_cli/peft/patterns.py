"""Names and regular expressions out of an adapter's config: matched as PEFT matches them, but only up to a time limit.

PEFT hands them to ``re``, which cannot be stopped: a few characters in a config hang it for ever. We match with
``regex``, which can, after ``re`` has agreed that the pattern is one; where the two read a pattern differently, the
pattern is rewritten so that ``regex`` reads what ``re`` would.
"""

import re
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Protocol

from lora_cli.errors import FormatError

TIME_LIMIT_S = 3.0
"""Seconds that all matching for one adapter may take together."""

COMPARISON_S = 5e-7
"""The time that one comparison of two names is charged with, unmeasured: six million are the limit."""

QUICK = 2
"""How many names are looked for in a text, or at its end, in the time of one comparison."""

LENGTH_CAP = 100_000
"""Characters of one pattern times its counted repetitions: ``regex`` unrolls them, 400 bytes each."""

TOTAL_CAP = 2 * LENGTH_CAP
"""The same for all long patterns of one adapter together."""

TOO_SLOW = "PEFT itself would hang on it; use fewer patterns without nested repetitions, or list the modules"

SHORT = 1000
"""Characters up to which a compiled pattern that counts nothing is kept for other adapters."""

LITERAL = re.compile(r"[\w.\- ]*", re.ASCII)
"""A name, maybe with dots (which match any character): such a pattern needs no ``regex``, and mostly no ``re``."""

_COUNTED = re.compile(r"\{(\d*+)(,?)(\d*+)\}", re.ASCII)
_OUTSIDE = re.compile(r"\\.|\[\^?\]?|\{|[^\\\[{]+", re.DOTALL)
_IN_SET = re.compile(r"\\.|\[|\]|[^\\\[\]]+", re.DOTALL)

FULL = "{}"
"""The frame of a pattern that must match a whole name."""


class Groups(Protocol):
    """The part of the match objects that ``re`` and ``regex`` share."""

    def group(self, name: str, /) -> str | None:
        """The text of a named group."""
        ...


class Budget:
    """The time that matching may still take, and the long patterns that were compiled for it."""

    def __init__(self, limit_s: float | None = None) -> None:
        """``limit_s`` is ``TIME_LIMIT_S`` when None."""
        self.limit_s = TIME_LIMIT_S if limit_s is None else limit_s
        self.left_s = self.limit_s
        self.compiled: dict[tuple[str, str], _Regex] = {}
        self.compiled_size = 0

    @property
    def spent(self) -> bool:
        """Whether no time is left, so that some question has no answer."""
        return self.left_s <= 0


_SHARED: ContextVar[Budget | None] = ContextVar("matching", default=None)


@contextmanager
def one_budget() -> Iterator[Budget]:
    """All matching in here shares one ``Budget``, whatever the caller; within another such block it is that one's."""
    shared = _SHARED.get()
    token = _SHARED.set(shared or Budget())
    try:
        budget = _SHARED.get()
        assert budget is not None
        yield budget
    finally:
        _SHARED.reset(token)


class Matcher:
    """Matches patterns against names until its time is up. ``where`` names the file and field in errors."""

    def __init__(self, where: str, limit_s: float | None = None) -> None:
        """The time is that of ``one_budget`` around it, or without one its own ``limit_s``."""
        self.where = where
        self._budget = _SHARED.get() or Budget(limit_s)

    def full(self, pattern: str, name: str) -> bool:
        """``re.fullmatch(pattern, name)``: how PEFT reads a string as ``target_modules`` or ``exclude_modules``."""
        return self._match(pattern, FULL, name) is not None

    def dotted_end(self, pattern: str, name: str) -> bool:
        r"""``re.match(rf"(.*\.)?({pattern})$", name)``: how PEFT reads the keys of its patterns."""
        if LITERAL.fullmatch(pattern) and "\n" not in name:
            self.charge(1, pattern)
            return _ends_with(pattern, name)
        return self._match(pattern, r"(.*\.)?({})$", name) is not None

    def component(self, pattern: str, name: str) -> bool:
        r"""``re.match(rf"(^|.*\.){pattern}($|\..*)", name)``: how PEFT reads ``modules_to_save``."""
        if LITERAL.fullmatch(pattern) and "." not in pattern and "\n" not in name:
            self.charge(1, pattern)
            return pattern in name.split(".")
        return self._match(pattern, r"(^|.*\.){}($|\..*)", name) is not None

    def layer_index(self, pattern: str, name: str) -> int | None:
        """The first number after a component that matches ``pattern``: how PEFT reads ``layers_pattern``."""
        found = self._match(pattern, r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", name)
        digits = found.group("idx") if found is not None else None
        return int(digits) if digits is not None and len(digits) < 10 else None

    def within(self, names: Sequence[str], text: str) -> bool:
        """Whether any of ``names`` is in ``text``, as it is."""
        self.charge(len(names) // QUICK)
        return any(name in text for name in names)

    def stands_in(self, name: str, texts: Sequence[str]) -> bool:
        """Whether ``name`` is in any of ``texts``, as it is."""
        self.charge(len(texts) // QUICK)
        return any(name in text for text in texts)

    def charge(self, comparisons: int, pattern: str = "") -> None:
        """Take so many comparisons off the time that is left: millions of quick ones are slow as well.

        Raises:
            FormatError: none is left.
        """
        if self._budget.spent:
            raise self._too_slow(pattern)
        self._budget.left_s -= COMPARISON_S * comparisons

    def _match(self, pattern: str, frame: str, name: str) -> Groups | None:
        begun = time.perf_counter()
        self.charge(1, pattern)
        budget = self._budget
        try:
            if LITERAL.fullmatch(pattern):
                literal = _with_re(frame.replace("{}", pattern, 1))
                return literal.fullmatch(name) if frame == FULL else literal.match(name)
            kept = len(pattern) <= SHORT and "{" not in pattern
            compiled = _with_regex(pattern, frame, self.where) if kept else self._long(pattern, frame)
            match = compiled.fullmatch if frame == FULL else compiled.match
            return match(name, timeout=max(budget.left_s, COMPARISON_S))
        except TimeoutError as error:
            budget.left_s = 0.0  # by its own clock, which may be ahead of ours
            raise self._too_slow(pattern) from error
        finally:
            budget.left_s -= time.perf_counter() - begun

    def _long(self, pattern: str, frame: str) -> "_Regex":
        """A long pattern, compiled: kept no longer than the budget is, and not many of them."""
        budget = self._budget
        if (pattern, frame) not in budget.compiled:
            compiled, budget.compiled_size = (
                _compiled(pattern, frame, self.where),
                budget.compiled_size + _size(pattern),
            )
            if budget.compiled_size > TOTAL_CAP:
                raise FormatError("the regular expressions are too large in total", where=self.where)
            budget.compiled[pattern, frame] = compiled
        return budget.compiled[pattern, frame]

    def _too_slow(self, pattern: str) -> FormatError:
        at = f", at {_shown(pattern)}" if pattern else ""
        return FormatError(
            f"matching takes longer than {self._budget.limit_s:g} s{at}",
            where=self.where,
            hint=TOO_SLOW,
        )


class _Regex(Protocol):
    def match(self, string: str, *, timeout: float) -> Groups | None: ...

    def fullmatch(self, string: str, *, timeout: float) -> Groups | None: ...


def _ends_with(pattern: str, name: str) -> bool:
    """Whether ``name`` is, or ends after a dot with, what the name ``pattern`` matches."""
    start = len(name) - len(pattern)
    if start < 0 or (start > 0 and name[start - 1] != "."):
        return False
    ending = name[start:]
    return ending == pattern or all(mine in {".", its} for mine, its in zip(pattern, ending, strict=True))


@lru_cache(maxsize=1024)
def _with_re(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@lru_cache(maxsize=256)
def _with_regex(pattern: str, frame: str, where: str) -> _Regex:
    return _compiled(pattern, frame, where)


def _compiled(pattern: str, frame: str, where: str) -> _Regex:
    import regex

    if _size(pattern) > LENGTH_CAP:
        raise FormatError(f"the regular expression {_shown(pattern)} is too large", where=where)
    try:
        with warnings.catch_warnings():
            # Both warn of what a later version may read as a set operation; nothing that a user of ours can mend.
            warnings.simplefilter("ignore")
            re.compile(frame.replace("{}", pattern, 1))
            compiled: _Regex = regex.compile(frame.replace("{}", as_regex_reads(pattern), 1))
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise FormatError(f"{_shown(pattern)} is not a regular expression: {error}", where=where) from error
    return compiled


def as_regex_reads(pattern: str) -> str:
    """``pattern`` so that ``regex`` reads it as ``re`` does.

    A brace that counts nothing is text to ``re`` (to ``regex`` it allows errors), and so is a bracket within a set.
    """
    rewritten: list[str] = []
    at, in_set = 0, False
    while token := (_IN_SET if in_set else _OUTSIDE).match(pattern, at):
        text = token.group()
        if in_set:
            in_set = text != "]"
            rewritten.append(r"\[" if text == "[" else text)
        else:
            in_set = text.startswith("[")
            rewritten.append(r"\{" if text == "{" and not _counts(pattern, at) else text)
        at = token.end()
    return "".join(rewritten) + pattern[at:]


def _counts(pattern: str, at: int) -> bool:
    counted = _COUNTED.match(pattern, at)
    return counted is not None and any(counted.groups())


def _size(pattern: str) -> int:
    """Its characters times its counted repetitions, or some number above ``LENGTH_CAP``."""
    size = len(pattern)
    for least, _, most in _COUNTED.findall(pattern):
        size *= max([1, *(int(count[:9]) for count in (least, most) if count)])
        if size > LENGTH_CAP:
            break
    return size


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:79] + "…")


class PatternKeys:
    """The keys of one pattern, in their order, as PEFT matches them (``Matcher.dotted_end``).

    A name is found by its parts between dots, each as long as it is: a dot is any character to PEFT.
    """

    def __init__(self, keys: Iterable[str], where: str) -> None:
        self._keys = list(keys)
        self._matcher = Matcher(where)
        self._patterns: list[int] = []
        self._names: dict[tuple[int, ...], dict[str, int]] = {}
        for place, key in enumerate(self._keys):
            if LITERAL.fullmatch(key):
                lengths = tuple(map(len, key.split(".")))
                self._names.setdefault(lengths, {}).setdefault(key, place)
            else:
                self._patterns.append(place)

    def first(self, module: str) -> str | None:
        """The first key that matches ``module``. Raises as ``Matcher.dotted_end``."""
        return next(self.matching(module), None)

    def matching(self, module: str) -> Iterator[str]:
        """The keys that match ``module``, in their order. Raises as ``Matcher.dotted_end``."""
        if "\n" in module:  # which no dot is
            tried, named = list(range(len(self._keys))), []
        else:
            tried, named = self._patterns, sorted(self._named(module))
        for place in tried:
            while named and named[0] < place:
                yield self._keys[named.pop(0)]
            if self._matcher.dotted_end(self._keys[place], module):
                yield self._keys[place]
        yield from (self._keys[place] for place in named)

    def dead(self, modules: Sequence[str]) -> list[str]:
        """The keys that match none of ``modules``. What is no regular expression, or takes too long, is not dead."""
        alive = set(modules)
        odd = [module for module in modules if "\n" in module]
        try:
            found = (place for module in modules if "\n" not in module for place in self._named(module))
            alive.update(self._keys[place] for place in found)
        except FormatError:
            return []
        return [
            key
            for key in self._keys
            if key not in alive and not self._any(key, odd if LITERAL.fullmatch(key) else modules)
        ]

    def _any(self, key: str, modules: Sequence[str]) -> bool:
        try:
            return any(self._matcher.dotted_end(key, module) for module in modules)
        except FormatError:
            return True

    def _named(self, module: str) -> Iterator[int]:
        """The places of the names that match a module without a line break."""
        self._matcher.charge(len(self._names))
        for lengths, names in self._names.items():
            start = len(module) - sum(lengths) - len(lengths) + 1
            if start < 0 or (start > 0 and module[start - 1] != "."):
                continue
            name = module[start:]
            if len(lengths) > 1 and name not in names:
                name = _dotted(name, lengths)
            if name in names:
                yield names[name]


def _dotted(name: str, lengths: tuple[int, ...]) -> str:
    """``name`` with a dot between parts of these lengths, whatever is there."""
    parts, at = [], 0
    for length in lengths:
        parts.append(name[at : at + length])
        at += length + 1
    return ".".join(parts)


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
        first = max(0, len(module) - self._longest - 1)
        dot = module.rfind(".", first)
        while dot >= 0:
            if module[dot + 1 :] in self.names:
                return True
            dot = module.rfind(".", first, dot)
        return False
