"""Requests of clients: one pydantic model for each JSON body, strict and bounded."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    model_validator,
)

from lora_cli import parse
from lora_cli.errors import FormatError, UsageError
from lora_cli.text import did_you_mean, shown

LONGEST_NAME, LONGEST_PATH = 256, 4096
MOST_KEYS, MOST_MISTAKES = 100, 8
MOST_PROMPTS, MOST_PROMPT_TOKENS, MOST_PROMPT_CHARACTERS = 64, 1 << 17, 1 << 19
MOST_TOKENS, USUAL_TOKENS, MOST_STOPS, LONGEST_STOP = 4096, 16, 4, 256

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "temperature": (0, None),
    "n": (1, None),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": ("", None),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "repetition_penalty": (1, None),
    "logit_bias": ({}, None),
    "min_tokens": (0, None),
    "top_k": (0, -1, 1, None),
    "use_beam_search": (False, None),
}
"""Parameters that greedy decoding supports only with these values; any other value is refused."""

UNHEEDED = frozenset({"top_p", "min_p", "seed", "user", "skip_special_tokens", "request_id", "priority", "metadata"})
"""Parameters without effect on greedy decoding; any value is accepted."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@:+-]*", re.ASCII)


def _adapter_name(name: str) -> str:
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name) or ".." in name:
        said = f"1 to {LONGEST_NAME} letters, digits and _ . - / @ : +, starting with a letter or digit"
        raise ValueError(f"{shown(name)} is not an adapter name ({said})")
    return name


def _path(path: str) -> str:
    try:
        path.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"lora_path is not a path: character {error.start} is half a surrogate pair") from error
    return path


def _several(value: Any) -> Any:
    """One text or a list of texts, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _prompts(value: Any) -> Any:
    """One prompt or several, as OpenAI has them, as a tuple: text, token ids, or a list of texts or of token ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        value = [value]
    return tuple(tuple(one) if isinstance(one, list) else one for one in value) if isinstance(value, list) else value


Text = InstanceOf[str]
"""A string that may have half a surrogate pair, which pydantic's own does not take."""

Name = Annotated[Text, AfterValidator(_adapter_name)]
AdapterPath = Annotated[Text, Field(min_length=1, max_length=LONGEST_PATH), AfterValidator(_path)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=MOST_PROMPT_TOKENS, fail_fast=True)]
Prompt = Annotated[Text, Field(min_length=1, max_length=MOST_PROMPT_CHARACTERS)] | TokenIds
Stop = Annotated[Text, Field(min_length=1, max_length=LONGEST_STOP)]


class ClientRequest(BaseModel):
    """A JSON body. A field's description is what it must be; ``unheeded`` are keys that may have any value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    unheeded: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The request in ``body``. Raises ``UsageError``."""
        try:
            fields = parse.json_object(body, "the request")
        except FormatError as error:
            raise UsageError(error.message, hint="send a JSON object") from error
        if len(fields) > MOST_KEYS:
            raise UsageError(f"the request has {len(fields)} keys, over the limit")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise _usage_error(error, cls) from error

    @model_validator(mode="before")
    @classmethod
    def _heeded(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in fields.items() if key not in cls.unheeded}


class LoadRequest(ClientRequest):
    """``POST /v1/load_lora_adapter``, with vLLM's field names."""

    unheeded = frozenset({"base_model_name", "pinned"})
    lora_name: Name = Field(description="text")
    lora_path: AdapterPath = Field(description=f"text of 1 to {LONGEST_PATH} characters")
    load_inplace: bool = Field(False, description="true or false")


class NameRequest(ClientRequest):
    """``POST /v1/probe``."""

    lora_name: Name = Field(description="text")


class UnloadRequest(NameRequest):
    """``POST /v1/unload_lora_adapter``, with vLLM's field names."""

    unheeded = frozenset({"lora_int_id"})


class StreamOptions(BaseModel):
    """OpenAI's options of a stream; others than this one are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)
    include_usage: bool | None = None


class CompletionRequest(ClientRequest):
    """``POST /v1/completions``, with OpenAI's and vLLM's names. Null means not given."""

    unheeded = UNHEEDED | NEUTRAL.keys()
    model: Text = Field(description="the name of an adapter, or of the base")
    max_tokens: int = Field(USUAL_TOKENS, ge=1, le=MOST_TOKENS, description=f"a whole number from 1 to {MOST_TOKENS}")
    stream: bool = Field(False, description="true or false")
    stream_options: StreamOptions = Field(StreamOptions(), description="an object, its include_usage true or false")
    stop: Annotated[tuple[Stop, ...], BeforeValidator(_several)] = Field(
        (),
        max_length=MOST_STOPS,
        fail_fast=True,
        description=f"text or a list of at most {MOST_STOPS} texts of at most {LONGEST_STOP} characters",
    )
    ignore_eos: bool = Field(False, description="true or false")
    prompt: Annotated[tuple[Prompt, ...], BeforeValidator(_prompts)] = Field(
        min_length=1,
        max_length=MOST_PROMPTS,
        fail_fast=True,
        description=f"text, token ids, or a list of at most {MOST_PROMPTS} of these, "
        f"each not empty and with at most {MOST_PROMPT_TOKENS} tokens",
    )
    logprobs: int | None = Field(None, ge=0, le=1, description="0 or 1")
    return_token_ids: bool = Field(False, description="true or false")

    @model_validator(mode="before")
    @classmethod
    def _greedy(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """``fields`` without nulls. Raises ``ValueError``: one of them asks for what only sampling gives."""
        for key, neutral in NEUTRAL.items():
            if key in fields and fields[key] not in neutral:
                raise ValueError(f"{key} {shown(fields[key])} is not supported: decoding is greedy")
        return {key: value for key, value in fields.items() if value is not None or key not in cls.model_fields}


def _usage_error(error: ValidationError, model: type[ClientRequest]) -> UsageError:
    """The validation errors of a request as one ``UsageError``: the first few fields, each once."""
    by_field = {one["loc"][:1]: one for one in reversed(error.errors(include_url=False, include_input=False))}
    first = list(reversed(by_field.values()))[:MOST_MISTAKES]
    return UsageError("; ".join(_said(one["type"], one["loc"], one.get("ctx", {}), model) for one in first))


def _said(kind: str, place: tuple[int | str, ...], context: Mapping[str, Any], model: type[ClientRequest]) -> str:
    if kind == "value_error":
        return str(context["error"])
    if not place:
        return "the request has a key that is not a string"
    field = str(place[0])
    if kind == "missing":
        return f"the request has no {field}"
    if kind == "extra_forbidden":
        meant = did_you_mean(field, {*model.model_fields, *model.unheeded})
        return f"the request has an unknown key {shown(field)} ({meant})"
    return f"{field} must be {model.model_fields[field].description}"
