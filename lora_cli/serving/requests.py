"""What clients say: JSON bodies, bounded and checked before anything is done with them."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lora_cli.core import parse
from lora_cli.core.nearest import did_you_mean
from lora_cli.errors import FormatError, UsageError

LONGEST_NAME, LONGEST_PATH = 256, 4096
MOST_NAMES = 10_000

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@:+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """``POST /v1/load_lora_adapter``, with vLLM's field names."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


def load_request(body: bytes) -> LoadRequest:
    """What is to be loaded under which name. Raises ``UsageError``."""
    fields = fields_of(body, {"lora_name", "lora_path", "load_inplace", "base_model_name", "pinned"})
    name = _name(_required(fields, "lora_name"))
    path = _text(_required(fields, "lora_path"), "lora_path")
    if not path or len(path) > LONGEST_PATH:
        raise UsageError(f"lora_path must have 1 to {LONGEST_PATH} characters")
    try:
        path.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise UsageError(f"lora_path is no path: character {error.start} is half a surrogate pair") from error
    inplace = fields.get("load_inplace", False)
    if not isinstance(inplace, bool):
        raise UsageError("load_inplace must be true or false")
    return LoadRequest(name, path, inplace)


def name_request(body: bytes, *, also: Collection[str] = ()) -> str:
    """The adapter that is meant, by ``lora_name``. Raises ``UsageError``."""
    return _name(_required(fields_of(body, {"lora_name", *also}), "lora_name"))


def names_request(body: bytes) -> tuple[tuple[str, ...], int]:
    """``POST /v1/prefetch``: names, and their priority (the lowest goes first). Raises ``UsageError``."""
    fields = fields_of(body, {"lora_names", "priority"})
    names = _required(fields, "lora_names")
    if not isinstance(names, list) or not 0 < len(names) <= MOST_NAMES:
        raise UsageError(f"lora_names must be a list of 1 to {MOST_NAMES} names")
    priority = fields.get("priority", 0)
    if not isinstance(priority, int) or isinstance(priority, bool) or abs(priority) > 1_000_000:
        raise UsageError("priority must be a whole number of at most a million")
    return tuple(_name(name) for name in names), priority


def fields_of(body: bytes, known: Collection[str]) -> dict[str, Any]:
    """The keys of a JSON object; one that is not ``known`` may be a mistake. Raises ``UsageError``."""
    try:
        fields = parse.json_object(body, "the request")
    except FormatError as error:
        raise UsageError(error.message, hint="send a JSON object") from error
    for key in fields:
        if key not in known:
            raise UsageError(f"the request has an unknown key {parse.shown(key)}", hint=did_you_mean(key, known))
    return fields


def _required(fields: dict[str, Any], key: str) -> Any:
    if key not in fields:
        raise UsageError(f"the request lacks {key}")
    return fields[key]


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{key} must be text, not {parse.kind_of(value)}")
    return value


def _name(value: Any) -> str:
    name = _text(value, "lora_name")
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{parse.shown(name)} is no name of an adapter",
            hint=f"1 to {LONGEST_NAME} letters, digits and _ . - / @ : +, which begin with a letter or digit",
        )
    return name
