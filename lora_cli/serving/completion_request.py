"""``POST /v1/completions``: what a client asks, bounded and checked, and refused where the answer would be another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_cli.core import parse
from lora_cli.errors import UsageError
from lora_cli.serving.requests import fields_of

MOST_PROMPTS, MOST_PROMPT_TOKENS, MOST_PROMPT_CHARACTERS = 64, 1 << 17, 1 << 19
MOST_TOKENS, USUAL_TOKENS, MOST_LOGPROBS, MOST_STOPS, LONGEST_STOP = 4096, 16, 20, 4, 256

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
"""Values that change nothing about a greedy answer; any other value would, so it is refused."""

UNHEEDED = frozenset({"top_p", "min_p", "seed", "user", "skip_special_tokens", "request_id", "priority", "metadata"})
"""What has no effect on a greedy answer, whatever it is."""

OWN = frozenset(
    {"model", "prompt", "max_tokens", "stream", "stream_options", "logprobs", "stop", "ignore_eos", "return_token_ids"}
)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request, with OpenAI's and vLLM's field names; a prompt is text or token ids."""

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    max_tokens: int = USUAL_TOKENS
    stream: bool = False
    include_usage: bool = False
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    return_token_ids: bool = False


def completion_request(body: bytes) -> CompletionRequest:
    """What is asked. Raises ``UsageError``: it is no request, or asks for what only sampling gives."""
    fields = fields_of(body, OWN | NEUTRAL.keys() | UNHEEDED)
    for key, neutral in NEUTRAL.items():
        if key in fields and fields[key] not in neutral:
            raise UsageError(f"{key} {parse.shown(fields[key])} is not supported: answers are greedy")
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        raise UsageError("stream_options must be an object")
    model = fields.get("model")
    if not isinstance(model, str):
        raise UsageError("model must be the name of an adapter, or of the base")
    return CompletionRequest(
        model=model,
        prompts=_prompts(fields.get("prompt")),
        max_tokens=_whole(fields.get("max_tokens"), "max_tokens", 1, MOST_TOKENS, USUAL_TOKENS),
        stream=_flag(fields.get("stream"), "stream"),
        include_usage=_flag(options.get("include_usage"), "stream_options.include_usage"),
        logprobs=None
        if fields.get("logprobs") is None
        else _whole(fields["logprobs"], "logprobs", 0, MOST_LOGPROBS, 0),
        stop=_stops(fields.get("stop")),
        ignore_eos=_flag(fields.get("ignore_eos"), "ignore_eos"),
        return_token_ids=_flag(fields.get("return_token_ids"), "return_token_ids"),
    )


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One prompt or several, as OpenAI has them: text, a list of texts, of token ids, or of lists of token ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_id(value[0])):
        return (_prompt(value),)
    if isinstance(value, list) and 0 < len(value) <= MOST_PROMPTS:
        return tuple(_prompt(one) for one in value)
    raise UsageError(f"prompt must be text, token ids, or a list of at most {MOST_PROMPTS} of these")


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str) and 0 < len(value) <= MOST_PROMPT_CHARACTERS:
        return value
    if isinstance(value, list) and 0 < len(value) <= MOST_PROMPT_TOKENS and all(map(_is_id, value)):
        return tuple(value)
    raise UsageError(f"a prompt must be text or a list of token ids, not empty, and have at most {MOST_PROMPT_TOKENS}")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    fine = isinstance(stops, list) and len(stops) <= MOST_STOPS
    if not fine or not all(isinstance(stop, str) and 0 < len(stop) <= LONGEST_STOP for stop in stops):
        raise UsageError(
            f"stop must be text or a list of at most {MOST_STOPS} texts of at most {LONGEST_STOP} characters"
        )
    return tuple(stops)


def _flag(value: Any, key: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise UsageError(f"{key} must be true or false")


def _whole(value: Any, key: str, lowest: int, highest: int, usual: int) -> int:
    if value is None:
        return usual
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise UsageError(f"{key} must be a whole number from {lowest} to {highest}")
    return value
