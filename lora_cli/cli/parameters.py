"""A command's parameters, one for each option: a parameter that is a frozen dataclass stands for its fields.

So a command of forty options takes a handful of values, and each class says what its options are about. ``cli.plain``
and ``cli.app`` read the fields as if the command had named them itself, and make the values when they call it.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

REQUIRED: Any = object()
"""The default of a parameter that has none."""


class Parameter(NamedTuple):
    """What one option is declared with, and what it is when nobody gives it."""

    hint: Any
    default: Any


def parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Each parameter by its name, in the order of help, those of a dataclass in its place."""
    function = _innermost(function)
    positional = function.__code__.co_varnames[: function.__code__.co_argcount]
    usual = dict(zip(reversed(positional), reversed(function.__defaults__ or ()), strict=False))
    usual |= function.__kwdefaults__ or {}
    found: dict[str, Parameter] = {}
    for name, hint in _hints(function).items():
        if _is_group(hint):
            within = {one.name: one.default for one in fields(hint) if one.default is not MISSING}
            found |= {one: Parameter(hint.__annotations__[one], within[one]) for one in _options_of(hint)}
        else:
            found[name] = Parameter(hint, usual.get(name, REQUIRED))
    return found


def gathered(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``function``, made of a value for each of its ``parameters``."""
    return {
        name: hint(**{one: given[one] for one in _options_of(hint)}) if _is_group(hint) else given[name]
        for name, hint in _hints(_innermost(function)).items()
    }


def _innermost(function: Any) -> Any:
    """What is wrapped: a wrapper has the annotations of that, and not the defaults."""
    while (wrapped := getattr(function, "__wrapped__", None)) is not None:
        function = wrapped
    return function


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: hint for name, hint in function.__annotations__.items() if name != "return"}


def _options_of(group: Any) -> list[str]:
    """The fields that are declared as options; any other one keeps its default, and the command may replace it."""
    return [name for name in group.__match_args__ if hasattr(group.__annotations__[name], "__metadata__")]


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and hasattr(hint, "__match_args__")
