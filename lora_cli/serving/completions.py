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


async def complete(asked: GreedyRequest, base: str, scheduler: Scheduler) -> Response:
    """The response to one request, by ``base`` or an adapter. Raises ``LoraCliError`` before anything was sent."""
    manager = scheduler.manager
    adapter = None if asked.model == base else _find_adapter(manager, asked.model)

    async def begin(lora: LoraRequest | None) -> tuple[PromptGroup, list[RowScheduled]]:
        prompts = PromptGroup(asked, lora)
        scheduler.add(prompts)
        return prompts, await prompts.placed()

    if adapter is None:
        (prompts, placed), found, load_ms = await begin(None), "", 0.0
    else:
        (prompts, placed), found, load_ms = await manager.with_adapter(adapter, begin)
    tier = found or placed[0].tier
    if adapter is not None:
        manager.record_request(adapter, tier)
    headers = {"x-lora-tier": tier, "x-lora-load-ms": f"{load_ms + placed[0].load_ms:.3f}"} if tier else {}
    prefix, kind = ("chatcmpl", CHAT) if isinstance(asked, ChatRequest) else ("cmpl", "text_completion")
    head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model, "object": kind}
    if asked.stream:
        head["object"] = CHUNK if kind == CHAT else kind
        events = _events(asked, head, prompts, placed)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    return Json({**head, **await _whole(asked, prompts, placed)}, headers=headers)


def _find_adapter(manager: AdapterManager, model: str) -> AdapterState:
    """The adapter called ``model``. Raises ``NotFound``."""
    try:
        return manager.adapters.of(model)
    except NotFound as error:
        raise NotFound(f"The model `{shorten_name(model)}` does not exist.", hint=error.hint) from error


async def _whole(asked: GreedyRequest, prompts: PromptGroup, placed: Sequence[RowScheduled]) -> dict[str, Any]:
    """The complete output of every prompt, and the usage. Raises the ``LoraCliError`` of a prompt that failed."""
    pieces: list[list[OutputDelta]] = [[] for _ in placed]
    async for index, piece in prompts.pieces():
        if isinstance(piece, LoraCliError):
            raise piece
        pieces[index].append(piece)
    choices, completed = [], 0
    for index, parts in enumerate(pieces):
        ids = tuple(token for part in parts for token in part.ids)
        logprobs = tuple(log for part in parts for log in part.logprobs)
        text = "".join(part.text for part in parts)
        piece = OutputDelta(index, ids, text, logprobs, parts[-1].finish)
        if isinstance(asked, CompletionRequest):
            choice = _choice(asked, index, piece)
            if asked.return_token_ids:
                choice["prompt_token_ids"] = placed[index].prompt_ids
        else:
            choice = _turn(asked, piece, "message")
        choices.append(choice)
        completed += len(ids)
    return {"choices": choices, "usage": _usage(placed, completed)}


async def _events(
    asked: GreedyRequest, head: Mapping[str, Any], prompts: PromptGroup, placed: Sequence[RowScheduled]
) -> AsyncIterator[bytes]:
    """Server-sent events: each delta as it comes, the usage if requested, and ``[DONE]``."""
    completed, lengths = 0, [0] * len(placed)
    if not isinstance(asked, CompletionRequest):  # the first piece says whose turn it is
        first = {"index": 0, "delta": {"role": ASSISTANT, "content": ""}, "logprobs": None, "finish_reason": None}
        yield _event({**head, "choices": [first]})
    async for index, piece in prompts.pieces():
        if isinstance(piece, LoraCliError):
            yield _event(error_response(piece)[1])
        else:
            if isinstance(asked, CompletionRequest):
                choice = _choice(asked, index, piece, lengths[index])
            else:
                choice = _turn(asked, piece, "delta")
            yield _event({**head, "choices": [choice]})
            completed += len(piece.ids)
            lengths[index] += len(piece.text)
    if asked.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(placed, completed)})
    yield b"data: [DONE]\n\n"


def _choice(asked: CompletionRequest, index: int, piece: OutputDelta, offset: int = 0) -> dict[str, Any]:
    """One choice of a completion, or of a chunk that follows ``offset`` characters of text."""
    told = _logprobs(piece.logprobs, offset) if asked.logprobs is not None else None
    choice = {"index": index, "text": piece.text, "logprobs": told, "finish_reason": piece.finish or None}
    return {**choice, "token_ids": piece.ids} if asked.return_token_ids else choice


def _turn(asked: GreedyRequest, piece: OutputDelta, key: str) -> dict[str, Any]:
    """One choice of a chat completion; ``key`` is ``message``, or ``delta`` for a chunk."""
    said = {"role": ASSISTANT, "content": piece.text} if key == "message" else {"content": piece.text}
    told = None if asked.alternatives is None else {"content": [_of_token(one) for one in piece.logprobs]}
    return {"index": 0, key: said, "logprobs": told, "finish_reason": piece.finish or None}


def _of_token(one: TokenLogprob) -> dict[str, Any]:
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


def _usage(placed: Sequence[RowScheduled], completed: int) -> dict[str, int]:
    prompts = sum(len(one.prompt_ids) for one in placed)
    return {"prompt_tokens": prompts, "completion_tokens": completed, "total_tokens": prompts + completed}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json_bytes(value) + b"\n\n"
