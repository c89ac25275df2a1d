"""Types of the report models, with what their JSON Schema says beyond the Python type.

A report model is a frozen dataclass that has the keys of a JSON document as fields, in their order. ``reports.json``
encodes it, and what people read is made from it. ``docs/schemas.py`` generates the schema: it has pydantic read the
models, so that no command needs pydantic to print JSON. A description is the docstring of a class or of a field.
A field whose default is None is left out of the document where it is None; it is null there where ``NoneType`` is its
``default_factory``. A field whose name would be a keyword of
Python ends with ``_``. A member of an enumeration is written as its ``str``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

FilePath = Annotated[Path, Keyword("type", "string")]
Version = Annotated[str, Keyword("description", "The version of lora-cli.")]
Count = Annotated[int, Keyword("minimum", 0)]
PositiveCount = Annotated[int, Keyword("minimum", 1)]
NonNegative = Annotated[float, Keyword("minimum", 0)]
Sha256 = Annotated[str, Keyword("pattern", "^[0-9a-f]{64}$")]
Sha256OrEmpty = Annotated[str, Keyword("pattern", "^([0-9a-f]{64})?$")]
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
