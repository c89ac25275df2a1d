"""JSON output: the fields of a report as one document."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lora_cli.errors import LoraCliError


def to_json(value: Any) -> str:
    """``value`` as JSON text; a report model is one object (``json_schema``).

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
    """The keys of a mapping with their values, or those of a report model as ``json_schema`` says."""
    if isinstance(value, Mapping):
        yield from value.items()
        return
    for field in fields(value):
        one = getattr(value, field.name)
        if field.metadata.get("inline"):
            yield from _items(one) if one is not None else ()
        elif not field.metadata.get("excluded") and (one is not None or field.default is not None):
            yield field.name.removesuffix("_"), one
