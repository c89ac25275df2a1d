"""A YAML or TOML document against its pydantic model: every mistake with file, line, key, and what to write instead.

The types of values at the end have as context the folder that relative paths are relative to.
"""

import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo

from lora_cli.documents.option_values import SIZE, advised, parse_size
from lora_cli.errors import DocumentError, MachineError, NotFound, UsageError
from lora_cli.refs.reference import AdapterRef, is_path, parse, source_glob, training_run
from lora_cli.refs.request import NAME
from lora_cli.text import did_you_mean

STDIN = "-"
MOST_BYTES, DEPTH, MOST_MISTAKES = 16 << 20, 16, 100
"""The largest document, its deepest nesting, and the mistakes that are reported."""

WORDS = {"tuple_type": "input should be a list", "model_type": "input should be a mapping"}
QUOTE = "indent with spaces; quote a value that contains ': ' or ' #', or that starts with * & @ % {"

KeyPath = tuple[str | int, ...]
"""Keys and positions from the root of a document: ``("adapters", 3, "source")``."""

# No implicit types: the models say what a word is, so that 0.30 is a version and "no" a name.
_LOADER = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader


class Model(BaseModel):
    """A mapping of a document: only these keys, and no change later.

    ``instead`` has, for keys that people try and that do not exist, what to write. A field's docstring is its hint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    instead: ClassVar[Mapping[str, str]] = {}


class Head(Model):
    """The first keys of every lora-cli document."""

    apiVersion: Literal["lora-cli/v1"]  # noqa: N815 - as it is written
    """The version of this format."""


M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Document:
    """A document that was not validated yet, what errors call its file, and the line of what is at a path."""

    file: str
    value: Any
    line: Callable[[KeyPath], int]

    def at(self, *path: str | int) -> str:
        """``file:line`` of the value at ``path``."""
        return f"{self.file}:{self.line(path)}"

    def read(self, model: type[M], context: object = None) -> M:
        """The document by its model, whose validators get ``context``.

        Raises:
            DocumentError: the first mistakes, in the order of their lines.
        """
        try:
            return model.model_validate(self.value, context=context)
        except ValidationError as error:
            found = sorted(_mistakes(error, model), key=lambda one: self.line(one[0]))
        errors = []
        for at, message, hint in found[:MOST_MISTAKES]:
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")
            errors.append(UsageError(": ".join(filter(None, (self.at(*at), path, message))), hint=hint))
        raise DocumentError(errors)


def read_text(path: Path, what: str) -> str:
    """A small UTF-8 text file or pipe (``<(…)``), ``-`` for standard input; ``what`` it is for errors.

    Raises:
        NotFound: there is no such file.
        UsageError: it is too long, or not UTF-8.
        MachineError: it cannot be read.
    """
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with path.open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(f"{path}: the {what} is over {MOST_BYTES} bytes long", hint="split it into several files")
        return data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no {what} {path}", hint="check the path") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: the {what} is a folder", hint="use the file in it") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the {what} is not UTF-8 at byte {error.start}", hint="save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise MachineError(f"{path}: the {what} cannot be read: {error}", hint="check its mode (ls -l)") from error


def parse_yaml(text: str, file: str) -> Document:
    """The one YAML (or JSON) document in ``text``, with every scalar as the text that it is written as.

    Raises:
        UsageError: not YAML; empty; more than one document; over a bound; a duplicate key; an alias or a tag.
    """
    try:
        # Before nodes are built: an alias may grow without bounds, and building recurses.
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH or isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                refused = f"an alias (*), a tag (!) or more than {DEPTH} levels are not supported"
                raise UsageError(f"{file}:{getattr(event.start_mark, 'line', 0) + 1}: {refused}", hint=QUOTE)
        loader = _LOADER(text)
        root: Any = loader.get_single_node()
        value = loader.construct_document(root) if root is not None else None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "context", None) or "it has an invalid character"
        message = f"{file}:{getattr(mark, 'line', 0) + 1}: this is not YAML: {problem}"
        raise UsageError(message, hint=QUOTE) from error
    if root is None:
        raise UsageError(f"{file}:1: the document is empty", hint="see docs/manifest.md")
    lines: dict[KeyPath, int] = {(): root.start_mark.line + 1}
    for path, line in _lines(root, ()):
        if path in lines:
            message = f"{file}:{line}: {str(path[-1])[:200]}: duplicate key (first in line {lines[path]})"
            raise UsageError(message, hint="remove one of them")
        lines[path] = line
    # The nearest one above a key that is missing.
    return Document(
        file, value, lambda path: next(lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines)
    )


def _lines(node: yaml.Node, above: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    """The path of each key and member below ``node``, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*above, key.value), key.start_mark.line + 1
            yield from _lines(value, (*above, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*above, number), value.start_mark.line + 1
            yield from _lines(value, (*above, number))


def parse_toml(text: str, file: str) -> Document:
    """A TOML document. Raises ``UsageError`` if it cannot be parsed."""
    try:
        return Document(file, tomllib.loads(text), partial(_toml_line, text.split("\n")))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: this is not TOML: {error}", hint="write NAME = VALUE, strings in quotes") from error


def _toml_line(lines: list[str], path: KeyPath) -> int:
    """The line that the last key of ``path`` begins, by a search; of a member of a list it is that of its ``[[…]]``."""
    keys = [re.split(r"[\s=.\]\"']", line.lstrip("[\"' \t"), maxsplit=1)[0] for line in lines]
    found, end = 0, len(lines)
    for part in path:
        if isinstance(part, int):
            heads = [at for at, line in enumerate(lines) if line.strip().startswith("[[") and keys[at] == path[0]]
            found, end = (*heads[part:], found)[0], (*heads[part + 1 :], end)[0]
        else:
            found = next((at for at in range(found, end) if keys[at] == part), found)
    return found + 1


def _mistakes(error: ValidationError, model: type[Model]) -> Iterator[tuple[KeyPath, str, str]]:
    """Path, message and hint of pydantic's errors; no value is repeated, which may be a secret."""
    errors = error.errors(include_url=False)
    # A key that is only misspelled is not missing, too; but a file of another kind lacks its first keys.
    misspelled = {one["loc"][:-1] for one in errors if one["type"] == "extra_forbidden" and len(one["loc"]) > 1}
    for one in errors:
        path, kind, around = one["loc"], one["type"], model
        for part in path[:-1]:
            around = _below(around, part)
        keys = _keys(around)
        field = keys.get(next((str(part) for part in reversed(path) if isinstance(part, str)), ""))
        message = WORDS.get(kind) or one["msg"][:1].lower() + one["msg"][1:]
        hint = " ".join((field.description or "").split()) if field is not None else ""
        match kind:
            case "missing":
                path, message = path[:-1], f"the key {path[-1]} is missing"
                if path in misspelled:
                    continue
            case "too_short" if one["input"]:  # pydantic counts only the members that are right
                continue
            case "extra_forbidden":
                message, key = "unknown key", str(path[-1])
                hint = around.instead.get(key) or did_you_mean(key, keys)
            case "value_error":
                wrong = one["ctx"]["error"]
                message, advice, *below = wrong.args if len(wrong.args) > 1 else advised(wrong)
                path, hint = (*path, *below), advice or hint
            case "literal_error" if " or " in one["ctx"]["expected"] and isinstance(one["input"], str):
                hint = did_you_mean(one["input"], re.findall("'([^']*)'", one["ctx"]["expected"])) or hint
        yield path, message, hint or f"known keys: {', '.join(keys)}"


def _below(model: type[Model], part: str | int) -> type[Model]:
    """The model of the mapping at the key ``part`` of a mapping, or ``model`` where there is none."""
    field = _keys(model).get(str(part))
    pending = [] if field is None else [field.annotation]
    while pending:  # tuple[Model, ...], Model | None and the like
        one = pending.pop()
        pending += get_args(one)
        if isinstance(one, type) and issubclass(one, Model):
            return one
    return model


def _keys(model: type[Model]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


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
