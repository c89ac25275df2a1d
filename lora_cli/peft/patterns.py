"""Names and regular expressions of an adapter's config: matched as PEFT matches them, but within one deadline.

PEFT hands them to ``re``, which cannot be stopped: a few characters in a config hang it for ever. We match with
``regex``, which can, after ``re`` has agreed that the pattern is one. What the two read differently is refused.
"""

import re
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lora_cli.errors import FormatError

LIMIT_S = 3.0
"""Seconds of this thread's processor time for all matching for one adapter: a busy machine refuses no adapter."""

MOST_SIZE = 200_000
"""Characters of all patterns of one adapter times their counted repetitions: ``regex`` unrolls them, 400 bytes each."""

MOST_COMPARED = 12_000_000
"""Comparisons of names with modules that one question may take: about three seconds."""

TOO_SLOW = "PEFT itself would hang on it; use fewer patterns without nested repetitions, or list the modules"

WHOLE = "{}"
"""``re.fullmatch``: how PEFT reads a text as ``target_modules`` or ``exclude_modules``."""
END = r"(.*\.)?({})$"
"""How PEFT reads the keys of ``rank_pattern`` and ``alpha_pattern``; this and the next two with ``re.match``."""
COMPONENT = r"(^|.*\.){}($|\..*)"
"""How PEFT reads ``modules_to_save``."""
LAYER = r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
"""How PEFT reads ``layers_pattern``: ``idx`` is the layer."""

LITERAL = re.compile(r"[\w.\- ]*", re.ASCII)
"""A name, maybe with dots, which match any character."""

_COUNTED = re.compile(r"\{([0-9]*),?([0-9]*)\}")
_READ_OTHERWISE = re.compile(r"\{(?![0-9]+\}|[0-9]*,[0-9]*\})|\[:")
"""A brace that counts nothing (text to ``re``, errors that ``regex`` allows), and the start of a class by its name."""


@dataclass(slots=True)
class Deadline:
    """What one adapter's matching has left, and the patterns that were compiled for it, with their size."""

    left_s: float
    compiled: dict[str, Any] = field(default_factory=dict)
    size: int = 0


_CURRENT: ContextVar[Deadline | None] = ContextVar("matching", default=None)


@contextmanager
def one_deadline() -> Iterator[Deadline]:
    """All matching in here has one deadline, whoever asks; within another such block it is that one's."""
    deadline = _CURRENT.get() or Deadline(LIMIT_S)
    token = _CURRENT.set(deadline)
    try:
        yield deadline
    finally:
        _CURRENT.reset(token)


@contextmanager
def timed(where: str) -> Iterator[Deadline]:
    """What is done in here takes from the time that is left. ``where`` names file and field in the error.

    Raises:
        FormatError: there is none left.
    """
    deadline, begun = _CURRENT.get() or Deadline(LIMIT_S), time.thread_time()
    if deadline.left_s <= 0:
        raise _too_slow(where)
    try:
        yield deadline
    except TimeoutError as error:
        deadline.left_s = 0.0  # by the clock of regex, which may be ahead of ours
        raise _too_slow(where) from error
    finally:
        deadline.left_s -= time.thread_time() - begun


def _too_slow(where: str) -> FormatError:
    return FormatError(f"matching takes longer than {LIMIT_S:g} s", where=where, hint=TOO_SLOW)


def match(how: str, pattern: str, name: str, where: str) -> Any:
    """The match of a pattern of the config, read as ``how`` says, or None.

    Raises:
        FormatError: it is no pattern, is too large, or is not matched by the deadline.
    """
    with timed(where) as deadline:
        framed = how.replace("{}", pattern, 1)
        if framed not in deadline.compiled:
            deadline.compiled[framed] = _compiled(framed, pattern, where, deadline)
        compiled = deadline.compiled[framed]
        return (compiled.fullmatch if how == WHOLE else compiled.match)(name, timeout=deadline.left_s)


def _compiled(framed: str, pattern: str, where: str, deadline: Deadline) -> Any:
    import regex

    said = repr(pattern if len(pattern) <= 80 else pattern[:79] + "…")
    size = len(pattern)
    for counts in _COUNTED.findall(pattern):
        size = min(size * max([1, *(int(count[:9]) for count in counts if count)]), MOST_SIZE + 1)
    deadline.size += size
    if deadline.size > MOST_SIZE:
        raise FormatError(f"with {said}, the regular expressions are too large", where=where)
    try:
        with warnings.catch_warnings():
            # Both warn of what a later version may read as a set operation; nothing that a user of ours can mend.
            warnings.simplefilter("ignore")
            re.compile(framed)
            compiled = regex.compile(framed, cache_pattern=size < 1000)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise FormatError(f"{said} is not a regular expression: {error}", where=where) from error
    if _READ_OTHERWISE.search(re.sub(r"\\.", "", pattern, flags=re.DOTALL)):
        raise FormatError(f"{said} has a brace that counts nothing, or [:", where=where)
    return compiled


def matching_keys(keys: Iterable[str], modules: Iterable[str], where: str) -> dict[str, list[str]]:
    """The keys of ``rank_pattern`` or ``alpha_pattern`` that match each module, in their order.

    Raises:
        FormatError: as ``match``.
    """
    places = {key: place for place, key in enumerate(keys)}
    patterns = [key for key in places if not LITERAL.fullmatch(key)]
    # A name is looked up by where its dots are, which are any character to PEFT.
    names: dict[tuple[int, ...], set[str]] = {}
    for key in places.keys() - patterns:
        names.setdefault((len(key), *(at for at, char in enumerate(key) if char == ".")), set()).add(key)
    modules = tuple(modules)
    found = {module: [key for key in patterns if match(END, key, module, where)] for module in modules}
    with timed(where):
        if len(names) * len(modules) > MOST_COMPARED:
            raise TimeoutError
        for module, matched in found.items():
            for (length, *dots), alike in names.items():
                start = len(module) - length
                if start == 0 or (start > 0 and module[start - 1] == "."):
                    end = module[start:]
                    for at in dots if end not in alike else ():
                        end = f"{end[:at]}.{end[at + 1 :]}"
                    matched.extend([end] if end in alike else [])
            matched.sort(key=places.__getitem__)
    return found


def endings(module: str) -> Iterator[str]:
    """The path of a module, and every ending of it after a dot, the longest first."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module


class Endings:
    """A module is in here where it has one of the names, or ends in one after a dot."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._longest = max(map(len, self.names), default=0)

    def __contains__(self, module: str) -> bool:
        ends = islice(endings(module[-self._longest - 1 :]), 1, None)
        return module in self.names or any(end in self.names for end in ends)
