"""How rules word what they found: names from untrusted files, shortened and counted."""

from collections.abc import Iterable, Iterator

from lora_cli.core.finding import Location, Problem
from lora_cli.core.grouping import by_key
from lora_cli.core.text import LONGEST_NAME, beginning, counted, cut, names

LONGEST_MESSAGE = 2000
MOST_PROBLEMS = 20


def clipped(problem: Problem) -> Problem:
    """``problem``, with no text in it longer than ``LONGEST_MESSAGE``."""
    at = Location(cut(problem.at.file, LONGEST_MESSAGE), cut(problem.at.field, LONGEST_MESSAGE))
    return Problem(cut(problem.message, LONGEST_MESSAGE), at, cut(problem.hint, LONGEST_MESSAGE), problem.by)


def shown(value: object) -> str:
    """A config value as JSON wrote it, near enough: short, with strings in quotes."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return cut(f'"{value}"')
    # Only what is short is written as Python has it: a config holds lists of a hundred thousand names.
    begun = beginning(value, 2 * LONGEST_NAME)
    return cut(repr(value)) if len(begun) <= 2 * LONGEST_NAME else f"{begun[: LONGEST_NAME - 1]}…"


def shape(dims: Iterable[int]) -> str:
    """``[64, 8]``."""
    return f"[{', '.join(str(dim) for dim in dims)}]"


def grouped(said: Iterable[tuple[str, str]], file: str, noun: str, hint: str) -> Iterator[Problem]:
    """One problem per message instead of one per module.

    ``said`` are (message, name) pairs; a message that holds for many names is said once, with the first names.
    At most ``MOST_PROBLEMS`` are given, the last of which counts the rest. Without a ``file`` the names are those of
    files.
    """
    by_message = by_key(said)
    messages = list(by_message)
    for message in messages[:MOST_PROBLEMS]:
        found = by_message[message]
        whose = f" ({counted(len(found), noun)}: {names(found)})" if len(found) > 1 else f" ({cut(found[0])})"
        yield Problem(message + whose, Location(file, cut(found[0])) if file else Location(cut(found[0])), hint)
    if len(messages) > MOST_PROBLEMS:
        rest = sum(len(by_message[message]) for message in messages[MOST_PROBLEMS:])
        yield Problem(
            f"the same, in other words, for {counted(rest, 'more ' + noun)}",
            Location(file or cut(by_message[messages[-1]][0])),
            hint,
        )
