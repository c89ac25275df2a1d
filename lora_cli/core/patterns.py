"""Regular expressions out of an adapter's config: matched as PEFT matches them, but never for longer than a limit.

PEFT hands them to ``re``, which cannot be stopped: a few characters in a config hang it for ever. We match with
``regex``, which can, after ``re`` has agreed that the pattern is one; where the two read a pattern differently, the
pattern is rewritten so that ``regex`` reads what ``re`` would.
"""

import re
import time
import warnings
from functools import lru_cache
from typing import Protocol

from lora_cli.core.late import late
from lora_cli.errors import FormatError

TIME_LIMIT_S = 3.0
"""Seconds that all matching for one question about one config may take together."""

COMPARISON_S = 5e-7
"""What comparing one name with another is counted as, because a clock would take as long: six million are the limit."""

LENGTH_CAP = 100_000
"""Characters of one pattern times its counted repetitions: ``regex`` unrolls them, 400 bytes each."""

LITERAL = late(r"[\w.\- ]*", re.ASCII)
"""A name, maybe with dots (which match any character): such a pattern needs no ``regex``, and mostly no ``re``."""

_COUNTED = late(r"\{(\d*)(,?)(\d*)\}", re.ASCII)
_OUTSIDE = late(r"\\.|\[\^?\]?|\{|[^\\\[{]+", re.DOTALL)
_IN_SET = late(r"\\.|\[|\]|[^\\\[\]]+", re.DOTALL)

FULL = "{}"
"""The frame of a pattern that must match a whole name."""


class Groups(Protocol):
    """What both engines' match objects have."""

    def group(self, name: str, /) -> str | None:
        """The text of a named group."""
        ...


class Matcher:
    """Matches patterns against names until its time is up: what is held is the deadline.

    ``where`` names the file and field in errors.
    """

    def __init__(self, where: str, limit_s: float | None = None) -> None:
        """``limit_s`` is ``TIME_LIMIT_S`` when None."""
        self.where = where
        self.limit_s = TIME_LIMIT_S if limit_s is None else limit_s
        self._left_s = self.limit_s

    def full(self, pattern: str, name: str) -> bool:
        """``re.fullmatch(pattern, name)``: how PEFT reads a string as ``target_modules`` or ``exclude_modules``."""
        return self._match(pattern, FULL, name) is not None

    def dotted_end(self, pattern: str, name: str) -> bool:
        r"""``re.match(rf"(.*\.)?({pattern})$", name)``: how PEFT reads the keys of its patterns."""
        if LITERAL.fullmatch(pattern) and "\n" not in name:
            self._charge(pattern)
            return _ends_with(pattern, name)
        return self._match(pattern, r"(.*\.)?({})$", name) is not None

    def component(self, pattern: str, name: str) -> bool:
        r"""``re.match(rf"(^|.*\.){pattern}($|\..*)", name)``: how PEFT reads ``modules_to_save``."""
        if LITERAL.fullmatch(pattern) and "." not in pattern and "\n" not in name:
            self._charge(pattern)
            return pattern in name.split(".")
        return self._match(pattern, r"(^|.*\.){}($|\..*)", name) is not None

    def layer_index(self, pattern: str, name: str) -> int | None:
        """The first number after a component that matches ``pattern``: how PEFT reads ``layers_pattern``."""
        found = self._match(pattern, r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", name)
        digits = found.group("idx") if found is not None else None
        return int(digits) if digits is not None and len(digits) < 10 else None

    def _match(self, pattern: str, frame: str, name: str) -> Groups | None:
        begun = time.perf_counter()
        self._charge(pattern)
        try:
            if LITERAL.fullmatch(pattern):
                literal = _with_re(frame.replace("{}", pattern, 1))
                return literal.fullmatch(name) if frame == FULL else literal.match(name)
            compiled = _with_regex(pattern, frame, self.where)
            match = compiled.fullmatch if frame == FULL else compiled.match
            return match(name, timeout=max(self._left_s, COMPARISON_S))
        except TimeoutError as error:
            self._left_s = 0.0  # by its own clock, which may be ahead of ours
            raise self._too_slow(pattern) from error
        finally:
            self._left_s -= time.perf_counter() - begun

    def _charge(self, pattern: str) -> None:
        """Take one comparison off the time that is left: millions of quick ones are slow as well."""
        if self._left_s <= 0:
            raise self._too_slow(pattern)
        self._left_s -= COMPARISON_S

    def _too_slow(self, pattern: str) -> FormatError:
        return FormatError(
            f"matching takes longer than {self.limit_s:g} s, at {_shown(pattern)}",
            where=self.where,
            hint="PEFT itself would hang on it; write fewer patterns, without nested repetitions, or list the modules",
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


@lru_cache(maxsize=1024)
def _with_regex(pattern: str, frame: str, where: str) -> _Regex:
    import regex

    _check_size(pattern, where)
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


def _check_size(pattern: str, where: str) -> None:
    size = len(pattern)
    for least, _, most in _COUNTED.findall(pattern):
        size *= max([1, *(int(count[:9]) for count in (least, most) if count)])
        if size > LENGTH_CAP:
            break
    if size > LENGTH_CAP:
        raise FormatError(f"the regular expression {_shown(pattern)} is too large", where=where)


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:79] + "…")
