"""The types of values in documents: how each is written, and what an error says that it must be."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo, WithJsonSchema

from lora_cli.documents.option_values import SIZE
from lora_cli.errors import UsageError
from lora_cli.refs.globs import source_glob
from lora_cli.refs.reference import AdapterRef, parse, training_run
from lora_cli.refs.request import NAME, NAME_HINT, NAME_IN_WORDS
from lora_cli.units import advised, parse_size

T = TypeVar("T")

WORDS: dict[str, tuple[str, str]] = {}
"""By its pattern, what a text must be, and how to write it."""

MOST_GLOBS, LONGEST_GLOB = 1000, 1024
"""Globs of one list, and the characters of one."""

GLOB_HINT = "write hf://ORG/*, s3://BUCKET/*, https://HOST/* or ./FOLDER"
LINE = r"[^\x00-\x1f\x7f]{1,4096}"


@dataclass(frozen=True, slots=True)
class Unquoted:
    """What stands without quotes and is no text: a number that is no integer, as it is written, ``no``, or nothing."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Context:
    """The base of a document's relative paths, and a test whether one exists."""

    base_dir: Path = Path()
    is_path: Callable[[str], bool] = lambda _: False


def kind_of(value: Any) -> str:
    """The type of a value in words: ``a list``, ``a number``, ``empty``."""
    if isinstance(value, Unquoted) and not re.search("[0-9]", value.text):
        return "a boolean of YAML 1.1" if value.text.lower() in {"yes", "no", "on", "off"} else "empty"
    kinds = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean"}
    kinds |= dict.fromkeys((int, float, Unquoted), "a number")
    return kinds.get(type(value), "a date or a time")


def text(pattern: str, what: str, hint: str = "") -> Any:
    """The field of a text that ``pattern`` matches as a whole; alternatives in it are in parentheses.

    In errors ``what`` is what it must be, and ``hint`` how to write it.
    """
    WORDS[f"^{pattern}$"] = what, hint
    return Field(pattern=f"^{pattern}$")


def reference_of(written: str, context: Context) -> AdapterRef:
    """The reference that ``written`` means in the document's folder. Raises ``UsageError``."""
    return parse(written, is_path=context.is_path, base_dir=context.base_dir)


def _reference(value: str, info: ValidationInfo) -> str:
    """``value`` itself, if it is a reference."""
    try:
        reference_of(training_run(value) or value, info.context or Context())
    except UsageError as error:
        raise ValueError(error.message, error.hint or "source: hf://ORG/NAME@COMMIT") from error
    return value


def _file(value: str, info: ValidationInfo) -> str:
    """The absolute path of a file, from the document's folder."""
    return str((info.context or Context()).base_dir.absolute() / Path(value).expanduser())


def _glob(value: str, info: ValidationInfo) -> str:
    try:
        return source_glob(value, (info.context or Context()).base_dir)
    except ValueError as error:
        raise ValueError(str(error), GLOB_HINT) from error


def _size(value: Any) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        message, advice = advised(error)
        raise ValueError(message, advice or "write 512MiB, 2GiB or a number of bytes") from error


def _unquoted(value: Any) -> Any:
    """A number as it was written, for what may be quoted or not."""
    if isinstance(value, Unquoted):
        return value.text if re.match("[0-9]", value.text) else value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def unique(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    """The members of a list, each with another ``name``."""
    first: dict[str, int] = {}
    for number, one in enumerate(entries):
        if first.setdefault(one.name, number) != number:
            message = f"{one.name} is already the name of adapters[{first[one.name]}]"
            raise ValueError(message, f"name: {one.name[:126]}-2", number, "name")
    return entries


Several = Annotated[tuple[T, ...], Strict(strict=False)]
"""A list."""

Name = Annotated[str, text(NAME, NAME_IN_WORDS, NAME_HINT)]
Sha256 = Annotated[
    str,
    text(
        "[0-9a-f]{64}",
        "a sha256: 64 hexadecimal digits in lower case",
        "the digest of the snapshot, as shown by lora-cli cache ls; not of one file",
    ),
]
Line = Annotated[str, text(LINE, "one line of text")]
Reference = Annotated[
    str,
    text(".+", "a string", "write one line that is not empty"),
    AfterValidator(_reference),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 4096,
            "pattern": r"^[^\x00-\x1f\x7f]+$",
            "description": "hf://org/name[/subfolder][@revision], org/name[@revision], "
            "s3://, gs://, az://, https://, oci://, file:// or a path; relative paths are relative to this file.",
        }
    ),
]
Glob = Annotated[str, text(f".{{1,{LONGEST_GLOB}}}", "a glob of one line", GLOB_HINT), AfterValidator(_glob)]
Globs = Annotated[tuple[Glob, ...], Strict(strict=False), Field(max_length=MOST_GLOBS)]
File = Annotated[Line, AfterValidator(_file)]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema(dict(SIZE.schema))]
Version = Annotated[
    str,
    text(r"[0-9][A-Za-z0-9_.+-]{0,63}", "a version", 'version: "0.33"; lora-cli engines lists those known'),
    BeforeValidator(_unquoted),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9][A-Za-z0-9_.+-]{0,63}$"}]}
    ),
]
