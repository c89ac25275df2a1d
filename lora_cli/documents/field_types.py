"""The types of values in documents: how each is written, what an error says that it must be, and its JSON Schema."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    Strict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import core_schema

from lora_cli.documents.document import MOST_MISTAKES, kind_of, mistake
from lora_cli.documents.option_values import SIZE
from lora_cli.documents.yaml_nodes import Number
from lora_cli.errors import UsageError
from lora_cli.refs.globs import source_glob
from lora_cli.refs.reference import AdapterRef, parse, training_run
from lora_cli.refs.request import NAME, NAME_HINT, NAME_IN_WORDS
from lora_cli.units import advised, parse_size

T = TypeVar("T")

SHA256 = "[0-9a-f]{64}"
SIZE_HINT = "write 512MiB, 2GiB or a number of bytes"
GLOB_HINT = "write hf://ORG/*, s3://BUCKET/*, https://HOST/* or ./FOLDER"
DIGEST_HINT = "the digest of the snapshot, as shown by lora-cli cache ls; not of one file"
MOST_GLOBS, LONGEST_GLOB = 1000, 1024
"""Globs of one list, and the characters of one."""


@dataclass(slots=True)
class Context:
    """The base of a document's relative paths, a test whether one exists, and the number of mistakes so far."""

    base_dir: Path = Path()
    is_path: Callable[[str], bool] = lambda _: False
    mistakes: int = 0


def text(
    pattern: str, what: str, hint: str = "", kind: Literal["text", "number", "secret"] = "text"
) -> GetPydanticSchema:
    """A string that ``pattern`` matches as a whole; alternatives in it are in parentheses.

    In errors ``what`` is what it must be, ``hint`` how to write it, and ``kind`` how a wrong value is shown. A secret
    is never repeated: people put secrets where their names belong.
    """
    return _worded(core_schema.str_schema(pattern=f"^{pattern}$", strict=True), kind, what, hint)


def whole(lowest: int, highest: int) -> GetPydanticSchema:
    """A whole number from ``lowest`` to ``highest``."""
    schema = core_schema.int_schema(ge=lowest, le=highest, strict=True)
    return _worded(schema, "number", f"a whole number from {lowest} to {highest}", "write digits, without quotes")


def choice(words: tuple[str, ...], what: str = "") -> GetPydanticSchema:
    """One of a few words, which errors list where there is no ``what`` for them."""
    schema = core_schema.literal_schema(list(words))
    return _worded(schema, "choice", what or " or ".join(words), "", words=" ".join(words))


def _worded(schema: core_schema.CoreSchema, kind: str, what: str, hint: str, **more: str) -> GetPydanticSchema:
    """Pydantic's own check, with our words for its error (``documents.document`` writes it)."""
    context: dict[str, str | int | float] = {"what": what, "hint": hint, **more}
    worded = core_schema.custom_error_schema(
        schema, custom_error_type=kind, custom_error_message=kind, custom_error_context=context
    )
    return GetPydanticSchema(lambda source, handler: worded)


def _without_null(source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    (kind,) = (one for one in get_args(source) if one is not NoneType)
    return handler.generate_schema(kind)


Maybe = Annotated[T | None, GetPydanticSchema(_without_null)]
"""``T``, or None if the key is missing; a key without a value is a mistake."""


def _member(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """A member of a list; once there are the maximum of mistakes, the rest is not looked at."""
    context = info.context
    if context is None:
        return handler(value)
    if context.mistakes > MOST_MISTAKES:
        return value
    try:
        return handler(value)
    except ValidationError as error:
        context.mistakes += error.error_count()
        raise


Several = Annotated[tuple[Annotated[T, WrapValidator(_member)], ...], Strict(strict=False)]
"""A list."""


def _reference(value: str, info: ValidationInfo) -> str:
    """``value`` itself, if it is a reference."""
    try:
        reference_of(training_run(value) or value, info.context or Context())
    except UsageError as error:
        raise mistake(error.message, error.hint or "source: hf://ORG/NAME@COMMIT") from error
    return value


def reference_of(written: str, context: Context) -> AdapterRef:
    """The reference that ``written`` means in the document's folder. Raises ``UsageError``."""
    return parse(written, is_path=context.is_path, base_dir=context.base_dir)


def _file(value: str, info: ValidationInfo) -> str:
    """The absolute path of a file, from the document's folder."""
    return str((info.context or Context()).base_dir.absolute() / Path(value).expanduser())


def _glob(value: str, info: ValidationInfo) -> str:
    try:
        return source_glob(value, (info.context or Context()).base_dir)
    except ValueError as error:
        raise mistake(str(error), GLOB_HINT) from error


def _size(value: Any) -> int:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise mistake(f"this is {kind_of(value)}, but must be a size", SIZE_HINT)
    try:
        return parse_size(value)
    except ValueError as error:
        message, advice = advised(error)
        raise mistake(message, advice or SIZE_HINT) from error


def _unquoted(value: Any) -> Any:
    """A number as it was written, for what may be quoted or not."""
    if isinstance(value, Number):
        return value.text
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, text(NAME, NAME_IN_WORDS, NAME_HINT)]
Sha256 = Annotated[str, text(SHA256, "a sha256: 64 hexadecimal digits in lower case", DIGEST_HINT)]
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
File = Annotated[
    str, text(r"[^\x00-\x1f\x7f]{1,4096}", "the path of a file", "write ./keys/acme.pub"), AfterValidator(_file)
]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema(dict(SIZE.schema))]
Version = Annotated[
    str,
    text(r"[0-9][A-Za-z0-9_.+-]{0,63}", "a version", 'version: "0.33"; lora-cli engines lists those known', "number"),
    BeforeValidator(_unquoted),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9][A-Za-z0-9_.+-]{0,63}$"}]}
    ),
]
