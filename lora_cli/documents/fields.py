"""The types of values in documents, whose context is the folder that relative paths are relative to."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from lora_cli.documents.option_values import SIZE, parse_size
from lora_cli.errors import UsageError
from lora_cli.refs.globs import source_glob
from lora_cli.refs.reference import AdapterRef, is_path, parse, training_run
from lora_cli.refs.request import NAME


def reference_of(written: str, base_dir: Path) -> AdapterRef:
    """The reference that ``written`` means in the document's folder. Raises ``UsageError``."""
    return parse(written, is_path=partial(is_path, base_dir=base_dir), base_dir=base_dir)


def _reference(value: str, info: ValidationInfo) -> str:
    """``value`` itself, if it is a reference."""
    try:
        reference_of(training_run(value) or value, info.context or Path())
    except UsageError as error:
        raise ValueError(error.message, error.hint) from error
    return value


def _file(value: str, info: ValidationInfo) -> str:
    """The absolute path of a file, from the document's folder."""
    return str((info.context or Path()).absolute() / os.path.expanduser(value))  # noqa: PTH111 - total for any user


def _glob(value: str, info: ValidationInfo) -> str:
    return source_glob(value, info.context or Path())


def unique(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    """The members of a list, each with another ``name``."""
    first: dict[str, int] = {}
    for number, one in enumerate(entries):
        if first.setdefault(one.name, number) != number:
            message = f"{one.name} is already the name of adapters[{first[one.name]}]"
            raise ValueError(message, f"name: {one.name[:126]}-2", number, "name")
    return entries


Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,4096}$")]
Reference = Annotated[Line, AfterValidator(_reference)]
Glob = Annotated[Line, AfterValidator(_glob)]
Globs = tuple[Glob, ...]
File = Annotated[Line, AfterValidator(_file)]
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(dict(SIZE.schema))]
Version = Annotated[
    str, Field(pattern=r"^[0-9][A-Za-z0-9_.+-]{0,63}$", json_schema_extra={"type": ["number", "string"], "minimum": 0})
]
