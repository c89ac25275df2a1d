"""The settings file, which is TOML, by the kinds of its keys: every mistake with its line, key and hint."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, create_model

from lora_cli.core.option_values import Kind
from lora_cli.core.text import quoted
from lora_cli.documents.document import Document, Model, mistake
from lora_cli.documents.yaml_nodes import Path
from lora_cli.errors import UsageError


def read_toml(text: str, file: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The values by key, parsed. ``file`` is what errors call it.

    Raises:
        UsageError: it is not TOML, or every mistake with its line.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: this is not TOML: {error}", hint="write NAME = VALUE, strings in quotes") from error
    fields: dict[str, Any] = {
        key: (Annotated[Any, BeforeValidator(partial(_parsed, key, kind))], None) for key, kind in kinds.items()
    }
    model = create_model("SettingsFile", __base__=Model, **fields)
    read = Document(file, values, lambda: TomlPlaces(text)).read(model, None)
    return {key: getattr(read, key) for key in read.model_fields_set}


@dataclass(frozen=True, slots=True)
class TomlPlaces:
    """Where the keys of a TOML file are, by a search: its parser does not report it."""

    text: str

    def line(self, path: Path, *, key: bool = False) -> int:
        """The line of the first key of ``path``."""
        first = str(path[0])
        keys = (re.split(r"[\s=.\]\"']", line.lstrip("[\"' \t"), maxsplit=1)[0] for line in self.text.split("\n"))
        return next((number for number, key in enumerate(keys, 1) if key == first), 1)

    def written(self, path: Path) -> str:
        """Nothing: values are shown as they were parsed."""
        return ""


def _parsed(key: str, kind: Kind, value: Any) -> Any:
    """The value of ``key``. A number or a list in quotes is a mistake, though a variable would have it so."""
    wanted = kind.schema.get("type")
    if not isinstance(value, bool | int | float | str | list | dict):
        raise mistake("this is a date or a time", "write it in quotes" if wanted == "string" else "")
    if wanted in {"boolean", "integer"} and isinstance(value, str):
        raise mistake(f"{quoted(value)} is a string", "write it without quotes")
    if wanted == "array" and isinstance(value, str):
        raise mistake("this is a string", f'write a list: {key} = ["…"]')
    return kind.parse(value)
