"""A lora-cli document against its pydantic model: every mistake with file, line, key, and what to write instead."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from lora_cli.did_you_mean import did_you_mean, nearest
from lora_cli.documents.yaml_nodes import Number, Path, YamlPlaces, compose, in_words, plain
from lora_cli.errors import DocumentError, UsageError
from lora_cli.text import quoted
from lora_cli.units import advised

API_VERSION = "lora-cli/v1"

READ_WITH = {"AdapterSet": "-f", "AdapterSetLock": "the lock of -f", "Policy": "--policy"}
"""The option for each kind of document."""

UNKNOWN_KEY = "unknown key"

MOST_MISTAKES = 100
"""The maximum of mistakes that are reported for one document."""


class Model(BaseModel):
    """A mapping of a document: only these keys, values of exactly these types, and no change later.

    ``instead`` has, for keys that people try and that do not exist, what to write.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    instead: ClassVar[Mapping[str, str]] = {}


class Head(Model):
    """The first keys of every lora-cli document."""

    apiVersion: Literal["lora-cli/v1"]  # noqa: N815 - as it is written
    """The version of this format."""
    kind: str
    """The kind of this file."""


M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Mistake:
    """An error at ``path`` of a document, and what to write instead."""

    path: Path
    message: str
    hint: str


def mistake(message: str, hint: str = "", *below: str | int) -> PydanticCustomError:
    """The error that a validator raises. ``below`` leads from the value that it was given to the one that is wrong."""
    # The words travel as context: a brace in a template of pydantic's would be a placeholder.
    return PydanticCustomError("mistake", "mistake", {"message": message, "hint": hint, "below": below})


class Places(Protocol):
    """Where the values of a document are, by their paths."""

    def line(self, path: Path, *, key: bool = False) -> int:
        """The line of a value, or of its ``key``; 0 if it is not known."""

    def written(self, path: Path) -> str:
        """A value as it is written, cut short."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document that was not validated yet, what errors call its file, and where its values are."""

    file: str
    value: Any
    places: Callable[[], Places]

    def at(self, *path: str | int) -> str:
        """``file:line`` of the value at ``path``."""
        return f"{self.file}:{self.line(*path)}"

    def line(self, *path: str | int) -> int:
        """The line of the value at ``path``."""
        return self.places().line(path)

    def read(self, model: type[M], context: object, also: Callable[[Any], Iterable[Mistake]] = lambda _: ()) -> M:
        """The document by its model, whose validators get ``context``.

        ``also`` finds mistakes that concern several values at once, in the value that was not validated.

        Raises:
            DocumentError: all mistakes, in the order of their lines.
        """
        found = list(islice(also(self.value), MOST_MISTAKES + 1))
        if len(found) > MOST_MISTAKES:
            raise self.error(found)
        try:
            read = model.model_validate(self.value, context=context)
        except ValidationError as error:
            found += _in_words(error, model, self.places())
        if found:
            raise self.error(found)
        return read

    def error(self, mistakes: Iterable[Mistake]) -> DocumentError:
        """The error that lists ``mistakes``, at most ``MOST_MISTAKES`` of them."""
        found = list(mistakes)
        places = self.places()
        lines = ((places.line(one.path, key=one.message == UNKNOWN_KEY), one) for one in found[:MOST_MISTAKES])
        placed = sorted(lines, key=lambda pair: pair[0])
        errors = []
        for line, one in placed:
            parts = (f"{self.file}:{line}" if line else self.file, in_words(one.path), one.message)
            errors.append(UsageError(": ".join(filter(None, parts)), hint=one.hint))
        if len(found) > len(placed):
            errors.append(UsageError(f"{self.file}: more errors are not shown"))
        return DocumentError(errors)


def _in_words(error: ValidationError, model: type[Model], places: Places) -> Iterator[Mistake]:
    """Pydantic's errors in our words. A key that is only misspelled is not missing, too."""
    # Where members of a list are wrong, pydantic takes it for shorter.
    errors = [one for one in error.errors(include_url=False) if one["type"] != "too_short" or not one["input"]]
    reported = errors[: MOST_MISTAKES + 1]
    incomplete = {one["loc"][:-1] for one in reported if one["type"] == "missing"}
    unknown = [one["loc"] for one in reported if one["type"] == "extra_forbidden" and one["loc"][:-1] in incomplete]
    misspelled = {(*loc[:-1], _meant(str(loc[-1]), _model_at(model, loc[:-1]))) for loc in unknown}
    for one in reported:
        if one["type"] != "missing" or one["loc"] not in misspelled:
            yield _mistake(one, model, places)


def _meant(key: str, model: type[Model]) -> str | None:
    """The key that an unknown one stands for, if any."""
    instead = model.instead.get(key, "").partition(":")[0]
    return instead if instead in model.model_fields else nearest(key, _keys(model))


def _mistake(error: ErrorDetails, model: type[Model], places: Places) -> Mistake:
    path, context = error["loc"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return Mistake(path[:-1], f"the key {path[-1]} is missing", f"add {path[-1]}: …")
        case "extra_forbidden":
            around, key = _model_at(model, path[:-1]), str(path[-1])
            return Mistake(path, UNKNOWN_KEY, around.instead.get(key) or did_you_mean(key, _keys(around)))
        case "mistake":
            return Mistake((*path, *context["below"]), context["message"], context["hint"])
        case "value_error":
            return Mistake(path, *advised(context["error"]))
        case "model_type":
            known = f"known keys: {', '.join(_keys(_model_at(model, path)))}"
            return Mistake(path, f"this is {kind_of(error['input'])}, but must be a mapping", known)
    return Mistake(path, *_wrong_value(error["type"], error["input"], places.written(path), context))


def parse_document(text: str, file: str, kind: str) -> Document:
    """A lora-cli document: ``apiVersion`` and ``kind`` are checked before any other key.

    Raises:
        UsageError: it cannot be parsed, or is of another version or kind.
    """
    root = compose(text, file)
    document = Document(file, plain(root), lambda: YamlPlaces(root))
    head = document.value if isinstance(document.value, dict) else {"apiVersion": API_VERSION, "kind": kind}
    for key, value in (("apiVersion", API_VERSION), ("kind", kind)):
        if key not in head:
            raise document.error([Mistake((), f"the key {key} is missing", f"add {key}: {value}")])
        if (word := head[key]) != value:
            other = READ_WITH.get(word) if key == "kind" and isinstance(word, str) else None
            instead = f"{word} is for {other}, {kind} is for {READ_WITH[kind]}" if other else f"{key}: {value}"
            message, _ = _wrong_value("text", word, document.places().written((key,)), {"what": value})
            raise document.error([Mistake((key,), message, instead)])
    return document


def mappings(value: Any, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The mappings in the list under ``key`` of ``value``, with their positions, as far as there are any."""
    members = value.get(key) if isinstance(value, dict) else None
    for number, one in enumerate(members if isinstance(members, list) else ()):
        if isinstance(one, dict):
            yield number, one


def repeats(value: Any, key: str, *names: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """The mappings under ``key`` with the texts of an earlier one under ``names``: both positions, and the texts."""
    first: dict[tuple[Any, ...], int] = {}
    for number, one in mappings(value, key):
        texts = tuple(one.get(name) for name in names)
        if all(isinstance(text, str) for text in texts):
            if texts in first:
                yield number, first[texts], texts
            first.setdefault(texts, number)


def _wrong_value(kind: str, value: Any, written: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """The message and hint for a wrong value; ``written`` is its text, ``context`` has the words of its type."""
    this, what, hint = f"this is {kind_of(value)}", context.get("what", "a string"), context.get("hint", "")
    match kind:
        case "tuple_type":
            result = f"{this}, but must be a list", "write [ONE, TWO], or a line with - for each"
        case "bool_type":
            result = f"{this}, but must be true or false", "write true or false, without quotes"
        case "too_short":
            result = "the list is empty", "add at least one"
        case "too_long":
            result = f"{len(value)} entries are over the limit of {context['max_length']}", "use fewer"
        case "number":
            is_number = isinstance(value, int | float | Number) and not isinstance(value, bool)
            shown = str(written or value) if is_number else quoted(written or value)
            one = f"{this}, which" if isinstance(value, dict | list | None) else shown
            result = f"{one} is not {what}", hint
        case "secret":
            result = f"this is not {what}", hint
        case "choice" if isinstance(value, str):
            result = f"{quoted(value)} is not {what}", did_you_mean(value, context["words"].split())
        case _ if isinstance(value, str):
            result = f"{quoted(value)} is not {what}", hint
        case _ if isinstance(value, bool | int | float | Number):
            result = f"{written or value} is {kind_of(value)} here", f'quote it: "{written or value}"'
        case _:
            result = f"{this}, but must be {what}", hint or "write one value, quoted"
    return result


def _model_at(model: type[Model], path: Path) -> type[Model]:
    """The model of the mapping at ``path``."""
    for part in path:
        if isinstance(part, str):
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _keys(model: type[Model]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[Model]]:
    """The models in ``tuple[Model, ...]``, ``Model | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def kind_of(value: Any) -> str:
    """The type of a value in words: ``a list``, ``a number``, ``empty``."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "a boolean"
    kinds: dict[type, str] = {dict: "a mapping", list: "a list", str: "a string"}
    return kinds.get(type(value), "a number")
