"""OpenAI's completions and chat completions: a request is queued, and its output is sent whole or as a stream."""

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response, StreamingResponse

from lora_cli.errors import LoraCliError, NotFound
from lora_cli.runtime.messages import LoraRequest, OutputDelta, RowScheduled, TokenLogprob
from lora_cli.serving.adapter_manager import AdapterManager
from lora_cli.serving.adapter_state import AdapterState, shorten_name
from lora_cli.serving.requests import ChatRequest, CompletionRequest, GreedyRequest
from lora_cli.serving.responses import Json, error_response, json_bytes
from lora_cli.serving.scheduler import PromptGroup, Scheduler

CHAT, CHUNK, ASSISTANT = "chat.completion", "chat.completion.chunk", "assistant"


async def complete(request: GreedyRequest, base: str, scheduler: Scheduler) -> Response:
    """The response to one request, by ``base`` or an adapter. Raises ``LoraCliError`` before anything was sent."""
    manager = scheduler.manager
    adapter = None if request.model == base else _find_adapter(manager, request.model)

    async def begin(lora: LoraRequest | None) -> tuple[PromptGroup, list[RowScheduled]]:
        prompts = PromptGroup(request, lora)
        scheduler.add(prompts)
        return prompts, await prompts.scheduled()

    if adapter is None:
        (prompts, scheduled), found, load_ms = await begin(None), "", 0.0
    else:
        (prompts, scheduled), found, load_ms = await manager.with_adapter(adapter, begin)
    tier = found or scheduled[0].tier
    if adapter is not None:
        manager.record_request(adapter, tier)
    headers = {"x-lora-tier": tier, "x-lora-load-ms": f"{load_ms + scheduled[0].load_ms:.3f}"} if tier else {}
    prefix, kind = ("chatcmpl", CHAT) if isinstance(request, ChatRequest) else ("cmpl", "text_completion")
    head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model, "object": kind}
    if request.stream:
        head["object"] = CHUNK if kind == CHAT else kind
        events = _events(request, head, prompts, scheduled)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    return Json({**head, **await _full_output(request, prompts, scheduled)}, headers=headers)


def _find_adapter(manager: AdapterManager, model: str) -> AdapterState:
    """The adapter called ``model``. Raises ``NotFound``."""
    try:
        return manager.adapters.of(model)
    except NotFound as error:
        raise NotFound(f"The model `{shorten_name(model)}` does not exist.", hint=error.hint) from error


async def _full_output(
    request: GreedyRequest, prompts: PromptGroup, scheduled: Sequence[RowScheduled]
) -> dict[str, Any]:
    """The complete output of every prompt, and the usage. Raises the ``LoraCliError`` of a prompt that failed."""
    deltas: list[list[OutputDelta]] = [[] for _ in scheduled]
    async for index, delta in prompts.deltas():
        if isinstance(delta, LoraCliError):
            raise delta
        deltas[index].append(delta)
    choices, completed = [], 0
    for index, parts in enumerate(deltas):
        ids = tuple(token for part in parts for token in part.ids)
        logprobs = tuple(log for part in parts for log in part.logprobs)
        text = "".join(part.text for part in parts)
        delta = OutputDelta(index, ids, text, logprobs, parts[-1].finish)
        if isinstance(request, CompletionRequest):
            choice = _completion_choice(request, index, delta)
            if request.return_token_ids:
                choice["prompt_token_ids"] = scheduled[index].prompt_ids
        else:
            choice = _chat_choice(request, delta, "message")
        choices.append(choice)
        completed += len(ids)
    return {"choices": choices, "usage": _usage(scheduled, completed)}


async def _events(
    request: GreedyRequest, head: Mapping[str, Any], prompts: PromptGroup, scheduled: Sequence[RowScheduled]
) -> AsyncIterator[bytes]:
    """Server-sent events: each delta as it comes, the usage if requested, and ``[DONE]``."""
    completed, lengths = 0, [0] * len(scheduled)
    if not isinstance(request, CompletionRequest):  # the first piece says whose turn it is
        first = {"index": 0, "delta": {"role": ASSISTANT, "content": ""}, "logprobs": None, "finish_reason": None}
        yield _event({**head, "choices": [first]})
    async for index, delta in prompts.deltas():
        if isinstance(delta, LoraCliError):
            yield _event(error_response(delta)[1])
        else:
            if isinstance(request, CompletionRequest):
                choice = _completion_choice(request, index, delta, lengths[index])
            else:
                choice = _chat_choice(request, delta, "delta")
            yield _event({**head, "choices": [choice]})
            completed += len(delta.ids)
            lengths[index] += len(delta.text)
    if request.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(scheduled, completed)})
    yield b"data: [DONE]\n\n"


def _completion_choice(request: CompletionRequest, index: int, delta: OutputDelta, offset: int = 0) -> dict[str, Any]:
    """One choice of a completion, or of a chunk that follows ``offset`` characters of text."""
    logprobs = _logprobs(delta.logprobs, offset) if request.logprobs is not None else None
    choice = {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish or None}
    return {**choice, "token_ids": delta.ids} if request.return_token_ids else choice


def _chat_choice(request: GreedyRequest, delta: OutputDelta, key: str) -> dict[str, Any]:
    """One choice of a chat completion; ``key`` is ``message``, or ``delta`` for a chunk."""
    message = {"role": ASSISTANT, "content": delta.text} if key == "message" else {"content": delta.text}
    logprobs = None if request.alternatives is None else {"content": [_token_logprob(one) for one in delta.logprobs]}
    return {"index": 0, key: message, "logprobs": logprobs, "finish_reason": delta.finish or None}


def _token_logprob(one: TokenLogprob) -> dict[str, Any]:
    """A token in the format of OpenAI's chat completions, with the most likely alternatives."""
    top = [{"token": token, "logprob": log, "bytes": list(token.encode())} for token, log in one.top.items()]
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode()), "top_logprobs": top}


def _logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """The format of OpenAI's completions: one list for each property."""
    offsets = []
    for one in logprobs:
        offsets.append(offset)
        offset += len(one.token)
    return {
        "tokens": [one.token for one in logprobs],
        "token_logprobs": [one.logprob for one in logprobs],
        "top_logprobs": [dict(one.top) for one in logprobs],
        "text_offset": offsets,
    }


def _usage(scheduled: Sequence[RowScheduled], completed: int) -> dict[str, int]:
    prompts = sum(len(one.prompt_ids) for one in scheduled)
    return {"prompt_tokens": prompts, "completion_tokens": completed, "total_tokens": prompts + completed}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json_bytes(value) + b"\n\n"
