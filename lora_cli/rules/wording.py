"""How rules word what they found: names from untrusted files, shortened and counted."""

from collections.abc import Iterable, Iterator, Sequence

from lora_cli.core.finding import Location, Problem
from lora_cli.core.parse import beginning

LONGEST_NAME = 160
LONGEST_MESSAGE = 2000
MOST_PROBLEMS = 20


def clip(text: str, longest: int = LONGEST_NAME) -> str:
    """``text``, or its two ends when it is longer than anybody reads."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}…{text[-half:]}"


def clipped(problem: Problem) -> Problem:
    """``problem``, with no text in it longer than ``LONGEST_MESSAGE``."""
    at = Location(clip(problem.at.file, LONGEST_MESSAGE), clip(problem.at.field, LONGEST_MESSAGE))
    return Problem(clip(problem.message, LONGEST_MESSAGE), at, clip(problem.hint, LONGEST_MESSAGE), problem.by)


def shown(value: object) -> str:
    """A config value as JSON wrote it, near enough: short, with strings in quotes."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return clip(f'"{value}"')
    # Only what is short is written as Python has it: a config holds lists of a hundred thousand names.
    begun = beginning(value, 2 * LONGEST_NAME)
    return clip(repr(value)) if len(begun) <= 2 * LONGEST_NAME else f"{begun[:LONGEST_NAME]}…"


def names(items: Sequence[str], most: int = 3) -> str:
    """The first few of ``items``, and how many more there are."""
    listed = ", ".join(clip(item) for item in items[:most])
    return f"{listed} and {len(items) - most} more" if len(items) > most else listed


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 module``, ``2 modules``."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def shape(dims: Iterable[int]) -> str:
    """``[64, 8]``."""
    return f"[{', '.join(str(dim) for dim in dims)}]"


def grouped(said: Iterable[tuple[str, str]], *, file: str, noun: str, hint: str = "") -> Iterator[Problem]:
    """One problem per message instead of one per module.

    ``said`` are (message, name) pairs; a message that holds for many names is said once, with the first names.
    At most ``MOST_PROBLEMS`` are given, the last of which counts the rest. Without a ``file`` the names are those of
    files.
    """
    by_message: dict[str, list[str]] = {}
    for message, name in said:
        by_message.setdefault(message, []).append(name)
    messages = list(by_message)
    for message in messages[:MOST_PROBLEMS]:
        found = by_message[message]
        whose = f" ({count(len(found), noun)}: {names(found)})" if len(found) > 1 else f" ({clip(found[0])})"
        yield Problem(message + whose, Location(file, clip(found[0])) if file else Location(clip(found[0])), hint)
    if len(messages) > MOST_PROBLEMS:
        rest = sum(len(by_message[message]) for message in messages[MOST_PROBLEMS:])
        yield Problem(
            f"the same, in other words, for {count(rest, 'more ' + noun)}",
            Location(file or clip(by_message[messages[-1]][0])),
            hint,
        )
