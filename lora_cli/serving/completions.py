"""OpenAI's completions: a request is queued, and its output is sent whole or as a stream."""

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response, StreamingResponse

from lora_cli.errors import LoraCliError, NotFound
from lora_cli.runtime.messages import LoraRequest, OutputDelta, RowScheduled
from lora_cli.serving.adapter_manager import AdapterManager
from lora_cli.serving.adapter_state import AdapterState, shorten_name
from lora_cli.serving.requests import CompletionRequest
from lora_cli.serving.responses import Json, error_response, json_bytes
from lora_cli.serving.scheduler import PromptGroup, Scheduler


async def complete(request: CompletionRequest, base: str, scheduler: Scheduler) -> Response:
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
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": request.model,
        "object": "text_completion",
    }
    if request.stream:
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
    request: CompletionRequest, prompts: PromptGroup, scheduled: Sequence[RowScheduled]
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
        choice = _choice(request, index, delta)
        if request.return_token_ids:
            choice["prompt_token_ids"] = scheduled[index].prompt_ids
        choices.append(choice)
        completed += len(ids)
    return {"choices": choices, "usage": _usage(scheduled, completed)}


async def _events(
    request: CompletionRequest, head: Mapping[str, Any], prompts: PromptGroup, scheduled: Sequence[RowScheduled]
) -> AsyncIterator[bytes]:
    """Server-sent events: each delta as it comes, the usage if requested, and ``[DONE]``."""
    completed = 0
    async for index, delta in prompts.deltas():
        if isinstance(delta, LoraCliError):
            yield _event(error_response(delta)[1])
        else:
            yield _event({**head, "choices": [_choice(request, index, delta)]})
            completed += len(delta.ids)
    if request.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(scheduled, completed)})
    yield b"data: [DONE]\n\n"


def _choice(request: CompletionRequest, index: int, delta: OutputDelta) -> dict[str, Any]:
    """One choice of a completion, or of a chunk."""
    logprobs = None
    if request.logprobs is not None:
        logprobs = {
            "tokens": [one.token for one in delta.logprobs],
            "token_logprobs": [one.logprob for one in delta.logprobs],
        }
    choice = {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish or None}
    return {**choice, "token_ids": delta.ids} if request.return_token_ids else choice


def _usage(scheduled: Sequence[RowScheduled], completed: int) -> dict[str, int]:
    prompts = sum(len(one.prompt_ids) for one in scheduled)
    return {"prompt_tokens": prompts, "completion_tokens": completed, "total_tokens": prompts + completed}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json_bytes(value) + b"\n\n"
