"""A YAML or TOML document against its pydantic model: every mistake with file, line, key, and what to write instead."""

import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from lora_cli.did_you_mean import did_you_mean
from lora_cli.documents.fields import WORDS, Unquoted, kind_of
from lora_cli.errors import DocumentError, MachineError, NotFound, UsageError
from lora_cli.text import quoted
from lora_cli.units import advised

STDIN = "-"
MOST_BYTES, MOST_VALUES, DEPTH, MOST_MISTAKES = 4 << 20, 250_000, 16, 100
"""The largest document, its keys and values, their deepest nesting, and the mistakes that are reported."""

SPLIT = "split it into several files"
QUOTE = "indent with spaces; quote a value that contains ': ' or ' #', or that starts with * & @ %"

UNKNOWN = "unknown key"

Path = tuple[str | int, ...]
"""Keys and positions from the root of a document: ``("adapters", 3, "source")``."""

# No implicit types: what an unquoted word means is decided by ``_plain``.
_LOADER = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})", re.ASCII)
_NO_TEXT = re.compile(r"|~|null|yes|no|on|off|[-+]?([0-9]+\.[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.ASCII | re.IGNORECASE)


_TYPES = {
    "tuple_type": ("a list", "write [ONE, TWO], or a line with - for each"),
    "bool_type": ("true or false", "write true or false, without quotes"),
    "int_type": ("a whole number", "write digits, without quotes"),
}


class Model(BaseModel):
    """A mapping of a document: only these keys, values of exactly these types, and no change later.

    ``instead`` has, for keys that people try and that do not exist, what to write. The texts of a ``secret`` one are
    never repeated: people put secrets where their names belong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    instead: ClassVar[Mapping[str, str]] = {}
    secret: ClassVar[bool] = False


class Head(Model):
    """The first keys of every lora-cli document."""

    apiVersion: Literal["lora-cli/v1"]  # noqa: N815 - as it is written
    """The version of this format."""
    kind: str
    """The kind of this file."""


M = TypeVar("M", bound=Model)


class Mistake(NamedTuple):
    """An error at ``path`` of a document, and what to write instead."""

    path: Path
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Document:
    """A document that was not validated yet, what errors call its file, and the line of what is at a path."""

    file: str
    value: Any
    line: Callable[[Path], int]

    def at(self, *path: str | int) -> str:
        """``file:line`` of the value at ``path``."""
        return f"{self.file}:{self.line(path)}"

    def read(self, model: type[M], context: object = None) -> M:
        """The document by its model, whose validators get ``context``.

        Raises:
            DocumentError: all mistakes, in the order of their lines.
        """
        try:
            return model.model_validate(self.value, context=context)
        except ValidationError as error:
            found = list(_mistakes(error, model))
        errors = []
        for one in sorted(found[:MOST_MISTAKES], key=lambda one: self.line(one.path)):
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one.path)
            parts = (self.at(*one.path), path.removeprefix("."), one.message)
            errors.append(UsageError(": ".join(filter(None, parts)), hint=one.hint))
        if len(found) > MOST_MISTAKES:
            errors.append(UsageError(f"{self.file}: more errors are not shown"))
        raise DocumentError(errors)


def read_text(path: FilePath, what: str) -> str:
    """A small UTF-8 text file or pipe (``<(…)``), ``-`` for standard input; ``what`` it is for errors.

    Raises:
        NotFound: there is no such file.
        UsageError: it is a folder, too long, or not UTF-8.
        MachineError: it cannot be read.
    """
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with path.open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(f"{path}: the {what} is over {MOST_BYTES} bytes long", hint=SPLIT)
        return data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no {what} {path}", hint="check the path") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: the {what} is a folder", hint="use the file in it") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the {what} is not UTF-8 at byte {error.start}", hint="save it as UTF-8") from error
    except (OSError, ValueError) as error:
        hint = "check its owner and mode (ls -l)"
        raise MachineError(f"{path}: the {what} cannot be read: {error}", hint=hint) from error


def compose(text: str, file: str) -> yaml.Node:
    """The root of the one YAML (or JSON) document in ``text``: PyYAML's nodes know their lines.

    Raises:
        UsageError: not YAML; empty; more than one document; over a bound; a duplicate key; an alias or a tag.
    """
    if len(text) > MOST_BYTES:
        raise UsageError(f"{file}: the document is over {MOST_BYTES} characters long", hint=SPLIT)
    try:
        # Before nodes are built: an alias may grow without bounds, and building recurses.
        refused = next(_refused(yaml.parse(text, Loader=_LOADER)), None)
        root = yaml.compose(text, Loader=_LOADER) if refused is None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"{file}:{mark.line + 1 if mark else 1}: this is not YAML: {error.problem or error.context}"
        raise UsageError(message, hint=QUOTE) from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        message = f"{file}:1: this is not YAML: it contains an invalid character"
        raise UsageError(message, hint="save the file as UTF-8 text") from error
    if root is not None:
        refused = next(_odd_keys(root), None)
    elif refused is None:
        refused = 1, "the document is empty", "see docs/manifest.md and docs/policy.md for the keys"
    if root is None or refused is not None:
        assert refused is not None
        line, message, hint = refused
        raise UsageError(f"{file}:{line}: {message}", hint=hint)
    return root


def _refused(events: Iterable[Any]) -> Iterator[tuple[int, str, str]]:
    """Line, message and hint of what a document must not have."""
    depth = values = 0
    for event in events:
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        values += isinstance(event, yaml.NodeEvent)
        if values > MOST_VALUES:
            yield line, f"more than {MOST_VALUES} keys and values", SPLIT
        if isinstance(event, yaml.AliasEvent):
            alias = f"*{str(event.anchor)[:200]}"
            yield line, f"the alias {alias} is not supported", f'write the value itself, or quote it: "{alias}"'
        if getattr(event, "tag", None):
            yield line, f"the tag {event.tag[:200]} is not supported", "write the value without a tag"
        if depth > DEPTH:
            yield line, f"nested deeper than {DEPTH} levels", QUOTE


def _odd_keys(node: Any) -> Iterator[tuple[int, str, str]]:
    """Line, message and hint of keys that are there twice, or are no words."""
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _odd_keys(one)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                hint = 'quote a value that contains braces: "{{ name }}"'
                yield line, "a key must be a single value, not a list or a mapping", hint
            elif key.value in lines:
                message = f"{key.value[:200]}: duplicate key (first in line {lines[key.value]})"
                yield line, message, "remove one of them"
            else:
                lines[key.value] = line
            yield from _odd_keys(value)


def parse_yaml(text: str, file: str) -> Document:
    """A YAML document. Raises ``UsageError`` as ``compose``."""
    root = compose(text, file)
    return Document(file, _plain(root), partial(_yaml_line, root))


def parse_toml(text: str, file: str) -> Document:
    """A TOML document. Raises ``UsageError`` if it cannot be parsed."""
    try:
        return Document(file, tomllib.loads(text), partial(_toml_line, text.split("\n")))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: this is not TOML: {error}", hint="write NAME = VALUE, strings in quotes") from error


def _plain(node: yaml.Node) -> Any:
    """The value by YAML 1.2; the other booleans of YAML 1.1 are neither text nor booleans."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    text: str = node.value
    if node.style:
        return text
    if _INT.fullmatch(text):
        return int(text)
    return _WORDS.get(text, Unquoted(text) if _NO_TEXT.fullmatch(text) else text)


def _yaml_line(root: yaml.Node, path: Path) -> int:
    """The line of the key or member at ``path``, or of the nearest one above it."""
    key = node = root
    for part in path:
        if isinstance(node, yaml.MappingNode):
            key, node = next((pair for pair in node.value if pair[0].value == part), (key, node))
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            key = node = node.value[part]
    return int(key.start_mark.line) + 1


def _toml_line(lines: list[str], path: Path) -> int:
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


def _mistakes(error: ValidationError, model: type[Model]) -> Iterator[Mistake]:
    """Pydantic's errors in our words. A key that is only misspelled is not missing, too."""
    # Where members of a list are wrong, pydantic takes it for shorter.
    errors = [one for one in error.errors(include_url=False) if one["type"] != "too_short" or not one["input"]]
    found = [(one["loc"], _mistake(one, model)) for one in errors[: 2 * MOST_MISTAKES + 2]]
    hints = ((path[:-1], one.hint) for path, one in found if one.message == UNKNOWN and one.hint[:5] != "known")
    meant = {(*above, word) for above, hint in hints for word in re.findall(r"\w+", hint)}
    return (one for path, one in found if one.message == UNKNOWN or path not in meant)


def _mistake(error: ErrorDetails, model: type[Model]) -> Mistake:
    """One of pydantic's errors in our words."""
    path, value, context = error["loc"], error["input"], error.get("ctx", {})
    around, kind = _model_at(model, path[:-1]), kind_of(value)
    shown = quoted(value) if isinstance(value, str) else str(value).lower()
    is_plain = isinstance(value, bool | int | float | Unquoted) and bool(str(value)) and not around.secret
    this, quote = (f"{shown} is {kind}", f'quote it: "{shown}"') if is_plain else (f"this is {kind}", "quote one value")
    must, hint = _TYPES.get(error["type"], ("a string", quote))
    message = f"{this}, but must be {must}"
    match error["type"]:
        case "missing":
            only = get_args(field.annotation) if (field := around.model_fields.get(str(path[-1]))) else ()
            value = only[0] if len(only) == 1 and isinstance(only[0], str) else "…"
            path, message, hint = path[:-1], f"the key {path[-1]} is missing", f"add {path[-1]}: {value}"
        case "extra_forbidden":
            message, key = UNKNOWN, str(path[-1])
            hint = around.instead.get(key) or did_you_mean(key, _keys(around))
        case "value_error":
            wrong = context["error"]
            message, hint, *below = wrong.args if len(wrong.args) > 1 else advised(wrong)
            path = (*path, *below)
        case "string_pattern_mismatch":
            what, hint = WORDS[context["pattern"]]
            message = f"{'this' if around.secret else shown} is not {what}"
        case "literal_error" if isinstance(value, str):
            words = re.findall(r"'([^']*)'", context["expected"])
            message = f"{shown} is not {' or '.join(words)}"
            hint = did_you_mean(value, words) if len(words) > 1 else f"{path[-1]}: {words[0]}"
        case "model_type" | "mapping_type":
            message, hint = f"{this}, but must be a mapping", f"known keys: {', '.join(_keys(_model_at(model, path)))}"
        case "greater_than_equal" | "less_than_equal":
            bound = f"below {context['ge']}" if "ge" in context else f"over {context['le']}"
            message, hint = f"{shown} is {bound}", "write a number within the limit"
        case "too_short":
            message, hint = "the list is empty", "add at least one"
        case "too_long":
            message, hint = f"{len(value)} entries are over the limit of {context['max_length']}", "use fewer"
    return Mistake(path, message, hint)


def _model_at(model: type[Model], path: Iterable[str | int]) -> type[Model]:
    """The model of the mapping at ``path``."""
    for part in path:
        if part in model.model_fields:
            pending = [model.model_fields[str(part)].annotation]
            while pending:  # tuple[Model, ...], Model | None and the like
                one = pending.pop()
                pending += get_args(one)
                if isinstance(one, type) and issubclass(one, Model):
                    model = one
    return model


def _keys(model: type[Model]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
