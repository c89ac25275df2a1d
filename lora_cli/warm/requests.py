"""Requests of clients: one pydantic model for each JSON body, strict and bounded, with vLLM's and OpenAI's names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lora_cli.errors import NotFound, Refused, UsageError
from lora_cli.refs.reference import AdapterRef, parse
from lora_cli.settings import Settings
from lora_cli.text import cut, shown

MOST_PROMPTS, MOST_PROMPT_TOKENS, MOST_PROMPT_CHARACTERS = 64, 1 << 17, 1 << 19
MOST_TOKENS, USUAL_TOKENS = 4096, 16
MOST_MISTAKES = 8

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "temperature": (0, None),
    "n": (1, None),
    "best_of": (1, None),
    "echo": (False, None),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "repetition_penalty": (1, None),
    "logit_bias": ({}, None),
    "top_k": (0, -1, 1, None),
    "suffix": ("", None),
    "stop": ("", [], None),
    "logprobs": (None,),
}
"""Parameters that are supported only with these values; any other value is refused."""

UNHEEDED = frozenset({"top_p", "min_p", "seed", "user", "skip_special_tokens", "request_id", "priority", "metadata"})
"""Parameters without effect on greedy decoding; any value is accepted."""


def _prompts(value: Any) -> Any:
    """One prompt or several, as OpenAI has them, as a tuple: text, token ids, or a list of texts or of token ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        value = [value]
    return tuple(tuple(one) if isinstance(one, list) else one for one in value) if isinstance(value, list) else value


Name = Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z0-9_](\.?[A-Za-z0-9_/@:+-])*\.?$")]
"""Letters, digits and _ . - / @ : +, without two dots in a row."""

TokenIds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...],
    Field(min_length=1, max_length=MOST_PROMPT_TOKENS, fail_fast=True),
]
Prompt = Annotated[str, Field(min_length=1, max_length=MOST_PROMPT_CHARACTERS)] | TokenIds


class ClientRequest(BaseModel):
    """A JSON body. ``unheeded`` are keys of any value, ``neutral`` keys with the values that they may have."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    unheeded: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The request in ``body``. Raises ``UsageError``."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            by_field = {".".join(map(str, one["loc"][:1])): one["msg"] for one in reversed(error.errors())}
            said = [f"{cut(field)}: {text}" if field else text for field, text in reversed(by_field.items())]
            raise UsageError(f"the request is invalid: {'; '.join(said[:MOST_MISTAKES])}") from error

    @model_validator(mode="before")
    @classmethod
    def _heeded(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        for key, allowed in cls.neutral.items():
            if key in fields and fields[key] not in allowed:
                raise ValueError(f"{key} {shown(fields[key])} is not supported: decoding is greedy")
        passed_over = cls.unheeded | cls.neutral.keys()
        return {key: value for key, value in fields.items() if key not in passed_over and value is not None}


class LoadRequest(ClientRequest):
    """``POST /v1/load_lora_adapter``."""

    unheeded = frozenset({"base_model_name", "pinned"})
    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False


class UnloadRequest(ClientRequest):
    """``POST /v1/unload_lora_adapter``."""

    unheeded = frozenset({"lora_int_id"})
    lora_name: Name


class StreamOptions(BaseModel):
    """OpenAI's options of a stream; others than this one are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)
    include_usage: bool | None = None


class CompletionRequest(ClientRequest):
    """``POST /v1/completions``."""

    unheeded, neutral = UNHEEDED, NEUTRAL
    model: str
    prompt: Annotated[tuple[Prompt, ...], BeforeValidator(_prompts)] = Field(
        min_length=1, max_length=MOST_PROMPTS, fail_fast=True
    )
    max_tokens: int = Field(USUAL_TOKENS, ge=1, le=MOST_TOKENS)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    ignore_eos: bool = False
    return_token_ids: bool = False


def allowed_reference(lora_path: str, roots: Sequence[Path], settings: Settings) -> AdapterRef:
    """The reference that a client's ``lora_path`` is.

    A folder must be under one of ``roots``, links followed; what is elsewhere needs a policy that allows its source by
    name. A relative path is relative to the first root that has it.

    Raises:
        Refused: it is neither.
        UsageError: it is no reference.
        NotFound: no root has it.
    """
    ref = parse(lora_path, is_path=lambda text: "/" not in text or any(os.path.lexists(root / text) for root in roots))
    if ref.scheme != "file":
        if not any(policy.allow_sources for policy in settings.policies):
            reason = f"{ref}: this server only loads remote adapters if a policy allows their source"
            raise Refused(reason, hint="start the server with a --policy that has allow_sources")
        return ref  # what fetches it checks whether the policies allow it
    text = lora_path if "://" not in lora_path else ref.location
    places = [(Path(os.path.realpath(root / text)), Path(os.path.realpath(root))) for root in roots]
    inside = [place for place, root in places if place != root and place.is_relative_to(root)]
    # Path.exists raises at a name that is too long for the file system.
    found = next((place for place in inside if os.path.exists(place)), None)  # noqa: PTH110
    if found is not None:
        return AdapterRef("file", str(found))
    if inside and not any(os.path.lexists(root / text) for root in roots):
        raise NotFound(f"there is no {lora_path}", hint="check that it is mounted where this server runs")
    raise Refused(f"{lora_path} is not below a folder from which this server loads adapters", hint="--root DIRECTORY")
