"""Report models as JSON, and their types with what the JSON Schema says beyond the Python type.

A report model is a frozen dataclass that has the keys of a JSON document as fields, in their order; what people read is
made from it, too. ``docs/schemas.py`` generates the schema: it has pydantic read the models, so that no command needs
pydantic to print JSON. A description is the docstring of a class or of a field.
A field whose default is None is left out of the document where it is None; it is null there where ``NoneType`` is its
``default_factory``. A field whose name would be a keyword of
Python ends with ``_``. A member of an enumeration is written as its ``str``.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from lora_cli.errors import LoraCliError


@dataclass(frozen=True, slots=True)
class Keyword:
    """A keyword of JSON Schema for the type that is annotated with it."""

    name: str
    value: object

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        return {**handler(core_schema), self.name: self.value}


INLINE: Mapping[str, Any] = {"inline": True}
"""Metadata of a field: the keys of its value are in the object that has the field; none of them where it is None."""

EXCLUDED: Mapping[str, Any] = {"excluded": True}
"""Metadata of a field that the JSON document does not have."""

Version = Annotated[str, Keyword("description", "The version of lora-cli.")]
Count = Annotated[int, Keyword("minimum", 0)]
PositiveCount = Annotated[int, Keyword("minimum", 1)]
NonNegative = Annotated[float, Keyword("minimum", 0)]
Sha256 = Annotated[str, Keyword("pattern", "^[0-9a-f]{64}$")]
RuleCode = Annotated[str, Keyword("pattern", "^LC[0-9]{3}$")]
Fingerprint = Annotated[str, Keyword("pattern", "^[0-9a-f]{32}$")]


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What happened, and what to try."""

    message: str
    hint: str


def error_report(error: LoraCliError | None) -> ErrorReport | None:
    """What a report says of an error; None if there is none."""
    return None if error is None else ErrorReport(error.message, error.hint)


def to_json(value: Any) -> str:
    """``value`` as JSON text; a report model is one object.

    On a CI server's console no line of it is taken for a command (``##[…]``).
    What does not show is escaped: a terminal may obey it, and some readers take it for the end of a line.
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    if not text.replace("\n", "").isprintable():
        text = "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
        text = text.replace("\x7f", "\\u007f")
    return text.replace("##", "#\\u0023") + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, LoraCliError):
        value = {"message": value.message, "hint": value.hint, "exit_code": value.exit_code}
    if is_dataclass(value) or isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in _items(value)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str | Enum | Path):
        # A lone surrogate (a path that is not UTF-8) has no bytes in a JSON file.
        return str(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124 - NaN
        return None
    return value


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """The keys of a mapping with their values, or those of a report model."""
    if isinstance(value, Mapping):
        yield from value.items()
        return
    for field in fields(value):
        one = getattr(value, field.name)
        if field.metadata.get("inline"):
            yield from _items(one) if one is not None else ()
        elif not field.metadata.get("excluded") and (one is not None or field.default is not None):
            yield field.name.removesuffix("_"), one
