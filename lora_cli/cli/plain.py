"""A plain command line, read by what the command's function declares, as typer reads it and in a hundredth of the time.

Plain is: options that are declared, each with a value that it takes, and words for the declared arguments. Whatever is
not (help, an abbreviation, two letters in one word, a value that is wrong) is left to typer, and so is its wording.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from lora_cli.cli.parameters import REQUIRED, parameters
from lora_cli.cli.typer import Argument, Context, Declared

KNOWN = frozenset({"help", "metavar", "show_default", "min", "max"})
"""Typer's keywords that change nothing here, or that are kept here too."""

_Reader = Callable[[str], Any]


class NotPlain(Exception):
    """The line is for typer to read."""


def read(function: Callable[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """What ``words`` mean to each of the ``parameters`` of ``function``, without its context.

    Raises:
        NotPlain: the line is for typer to read.
    """
    wanted = {name: one for name, one in parameters(function).items() if one.hint is not Context}
    hints = {name: one.hint for name, one in wanted.items()}
    flags, arguments = _declared(hints)
    given: dict[str, Any] = {}
    others: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            others += left
        elif word == "-" or not word.startswith("-"):
            others.append(word)
        else:
            flag, has_value, value = word.partition("=") if word.startswith("--") else (word, "", "")
            name, meaning = flags.get(flag, ("", None))
            if not name or (has_value and not callable(meaning)):
                raise NotPlain
            _keep(given, name, hints[name], meaning, value if has_value else left)
    _place(others, arguments, hints, given)
    if any(one.default is REQUIRED for name, one in wanted.items() if name not in given):
        raise NotPlain
    return {name: given.get(name, one.default) for name, one in wanted.items()}


def _declared(hints: dict[str, Any]) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """Each flag's parameter, with what it means (a reader of its value, or a value); and the arguments, in order."""
    flags: dict[str, tuple[str, Any]] = {}
    arguments: list[str] = []
    for name, hint in hints.items():
        declared = next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Declared)), None)
        if declared is None or isinstance(declared, Argument):
            arguments.append(name)
        elif declared.said.keys() <= KNOWN and (reader := _reader(hint)) is not None:
            for flag in declared.names or _usual(name, reader):
                on, _, off = flag.partition("/")
                flags[on] = (name, True if reader is bool else reader)
                if off:
                    flags[off] = (name, False)
    return flags, arguments


def _usual(name: str, reader: _Reader) -> list[str]:
    """The flags of an option that declares none."""
    word = name.replace("_", "-")
    return [f"--{word}/--no-{word}" if reader is bool else f"--{word}"]


def _kind(hint: Any) -> Any:
    """The type that a hint says: what is in its ``Annotated``, and not ``None``."""
    kind = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    if isinstance(kind, UnionType):
        kinds = [one for one in kind.__args__ if one is not NoneType]
        return kinds[0] if len(kinds) == 1 else None
    return kind


def _reader(hint: Any) -> _Reader | None:
    """What makes a value of a word; None where that is typer's to know."""
    kind = _kind(hint)
    if kind == list[str]:
        return str
    if kind in (str, bool, Path):
        known: _Reader = kind
        return known
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    return _within(hint) if kind is int else None


def _within(hint: Any) -> _Reader:
    """Reads a whole number within the bounds that are declared."""
    said = next(one.said for one in hint.__metadata__ if isinstance(one, Declared))
    lowest, highest = said.get("min"), said.get("max")

    def number(word: str) -> int:
        value = int(word)
        if (lowest is not None and value < lowest) or (highest is not None and value > highest):
            raise NotPlain
        return value

    return number


def _keep(given: dict[str, Any], name: str, hint: Any, meaning: Any, value: Any) -> None:
    """Keeps what one flag says; ``value`` is its value, or the words that it is the next of."""
    if not callable(meaning):
        given[name] = meaning
        return
    word = value if isinstance(value, str) else next(value, None)
    if word is None:
        raise NotPlain
    try:
        made = meaning(word)
    except ValueError as error:
        raise NotPlain from error
    if _kind(hint) == list[str]:
        given.setdefault(name, []).append(made)
    else:
        given[name] = made


def _place(words: list[str], arguments: list[str], hints: dict[str, Any], given: dict[str, Any]) -> None:
    """Gives the words that are no options to the one argument that there is, if any."""
    if not words:
        return
    if len(arguments) != 1:
        raise NotPlain
    (name,) = arguments
    kind = _kind(hints[name])
    if kind == list[str]:
        given[name] = words
    elif kind is str and len(words) == 1:
        given[name] = words[0]
    else:
        raise NotPlain


def context_name(function: Callable[..., Any]) -> str:
    """The name of the parameter that takes the context; empty where none does."""
    return next((name for name, hint in function.__annotations__.items() if hint is Context), "")
