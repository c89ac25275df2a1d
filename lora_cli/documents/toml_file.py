"""The settings file, which is TOML, by the kinds of its keys: every mistake with its line, key and hint."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import BeforeValidator, create_model

from lora_cli.documents.document import Document, Model, mistake
from lora_cli.documents.field_types import Context, Several
from lora_cli.documents.option_values import Kind
from lora_cli.documents.source_rules import SourceRule
from lora_cli.documents.yaml_nodes import Path
from lora_cli.errors import UsageError
from lora_cli.text import quoted


def read_toml(text: str, file: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The values by key, parsed, and the rules under ``sources``. ``file`` is what errors call it.

    Raises:
        UsageError: it is not TOML, or every mistake with its line.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: this is not TOML: {error}", hint="write NAME = VALUE, strings in quotes") from error
    fields: dict[str, Any] = {
        key: (Annotated[Any, BeforeValidator(partial(_parsed, kind))], None) for key, kind in kinds.items()
    }
    model = create_model(
        "SettingsFile",
        __base__=Model,
        sources=(Annotated[Several[SourceRule], BeforeValidator(_several)], ()),
        **fields,
    )
    read = Document(file, values, lambda: TomlPlaces(text)).read(model, Context(FilePath(file).parent))
    return {key: getattr(read, key) for key in read.model_fields_set}


@dataclass(frozen=True, slots=True)
class TomlPlaces:
    """Where the keys of a TOML file are, by a search: its parser does not report it."""

    text: str

    def line(self, path: Path, *, key: bool = False) -> int:
        """The line of the last key of ``path`` that begins one; of a member of a list it is that of its ``[[…]]``."""
        lines = self.text.split("\n")
        keys = [re.split(r"[\s=.\]\"']", line.lstrip("[\"' \t"), maxsplit=1)[0] for line in lines]
        found, end = 0, len(lines)
        for part in path:
            if isinstance(part, int):
                heads = [at for at, line in enumerate(lines) if line.strip().startswith("[[") and keys[at] == path[0]]
                found, end = (*heads[part:], found)[0], (*heads[part + 1 :], end)[0]
            else:
                found = next((at for at in range(found, end) if keys[at] == part), found)
        return found + 1

    def written(self, path: Path) -> str:
        """Nothing: values are shown as they were parsed."""
        return ""


def _several(value: Any) -> Any:
    """The rules, and not the one that ``[sources]`` makes."""
    if isinstance(value, dict):
        raise mistake("this is a mapping, but must be a list", "write [[sources]] above each rule")
    return value


def _parsed(kind: Kind, value: Any) -> Any:
    """The value of a setting. A number in quotes is a mistake, though a variable would have it so."""
    wanted = kind.schema.get("type")
    if not isinstance(value, bool | int | float | str | list | dict):
        raise mistake("this is a date or a time", "write it in quotes" if wanted == "string" else "")
    if wanted in {"boolean", "integer"} and isinstance(value, str):
        raise mistake(f"{quoted(value)} is a string", "write it without quotes")
    return kind.parse(value)
