"""``POST /v1/completions``: OpenAI's completions, answered greedily by the base with an adapter on it."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response, StreamingResponse

from lora_cli.errors import LoraCliError, NotFound, UsageError
from lora_cli.runtime.messages import Job, Piece, Placed, Row, TokenLogprob
from lora_cli.serving.answers import STATUS, Json, encoded, error_body, shortened
from lora_cli.serving.batcher import Batcher, Waiting
from lora_cli.serving.entry import Entry
from lora_cli.serving.having import had, taken_away
from lora_cli.serving.host import Host
from lora_cli.serving.requests import CompletionRequest


class Completions:
    """Answers completions of ``base`` and of the adapters of ``host``; ``has_model`` says whether there is a model."""

    def __init__(self, host: Host, base: str, slots: int, *, has_model: bool) -> None:
        self._host, self._base, self._has_model = host, base, has_model
        self._batcher = Batcher(host, slots)

    async def answer(self, asked: CompletionRequest) -> Response:
        """The response to one request. Raises ``LoraCliError`` while nothing of it was sent."""
        if not self._has_model:
            raise UsageError("this server has no whole model to answer with", hint="start it with --forward model")
        entry = self._entry(asked.model)
        waiting, placed, found, load_ms = await self._begun(asked, entry)
        tier = found or placed[0].tier
        if entry is not None:
            self._host.used(entry, tier)
        headers = {"x-lora-tier": tier, "x-lora-load-ms": f"{load_ms + placed[0].load_ms:.3f}"} if tier else {}
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        if asked.stream:
            events = _events(asked, head, waiting, placed)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        try:
            choices, completed = await _choices(asked, waiting, placed)
        finally:
            _leave(waiting)
        usage = _usage(placed, completed)
        return Json({**head, "object": "text_completion", "choices": choices, "usage": usage}, headers=headers)

    async def _begun(
        self, asked: CompletionRequest, entry: Entry | None
    ) -> tuple[list[Waiting], list[Placed], str, float]:
        """Its prompts under way, where each was placed, and what ``had`` says; anew if its files were taken away."""
        for last in (False, True):
            found, load_ms = await had(self._host, entry) if entry is not None else ("", 0.0)
            job = entry.job if entry is not None else None
            waiting = [self._batcher.submit(_row(asked, prompt, job)) for prompt in asked.prompt]
            try:
                return waiting, [await one.placed() for one in waiting], found, load_ms
            except LoraCliError:
                _leave(waiting)
                if last or entry is None or job is None or not await taken_away(self._host, entry, job):
                    raise
            except BaseException:
                _leave(waiting)
                raise
        raise AssertionError

    def _entry(self, model: str) -> Entry | None:
        """The adapter that is meant; None is the base. Raises ``NotFound``."""
        if model == self._base:
            return None
        try:
            return self._host.entry(model)
        except NotFound as error:
            raise NotFound(f"The model `{shortened(model)}` does not exist.", hint=error.hint) from error


def _row(asked: CompletionRequest, prompt: str | tuple[int, ...], job: Job | None) -> Row:
    return Row(job, prompt, asked.max_tokens, asked.logprobs, asked.stop, asked.ignore_eos)


def _leave(waiting: Sequence[Waiting]) -> None:
    for one in waiting:
        one.gone = True


async def _choices(
    asked: CompletionRequest, waiting: Sequence[Waiting], placed: Sequence[Placed]
) -> tuple[list[dict[str, Any]], int]:
    """Each prompt's whole answer, and the tokens of all of them."""
    choices, completed = [], 0
    for index, one in enumerate(waiting):
        pieces = [piece async for piece in one.pieces()]
        ids = [token for piece in pieces for token in piece.ids]
        completed += len(ids)
        logprobs = [log for piece in pieces for log in piece.logprobs]
        choice = _choice(asked, index, "".join(piece.text for piece in pieces), logprobs, pieces[-1].finish)
        if asked.return_token_ids:
            choice |= {"prompt_token_ids": list(placed[index].prompt_ids), "token_ids": ids}
        choices.append(choice)
    return choices, completed


def _choice(
    asked: CompletionRequest, index: int, text: str, logprobs: Sequence[TokenLogprob], finish: str, offset: int = 0
) -> dict[str, Any]:
    told = _logprobs(logprobs, offset) if asked.logprobs is not None else None
    return {"index": index, "text": text, "logprobs": told, "finish_reason": finish or None}


def _logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """As OpenAI's completions have them: one list for each fact."""
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


def _usage(placed: Sequence[Placed], completed: int) -> dict[str, int]:
    prompts = sum(len(one.prompt_ids) for one in placed)
    return {"prompt_tokens": prompts, "completion_tokens": completed, "total_tokens": prompts + completed}


async def _events(
    asked: CompletionRequest, head: Mapping[str, Any], waiting: Sequence[Waiting], placed: Sequence[Placed]
) -> AsyncIterator[bytes]:
    """Server-sent events: each piece of each answer as it comes, the usage if asked for, and the end."""
    completed = 0
    merged: asyncio.Queue[tuple[int, Piece | LoraCliError | None]] = asyncio.Queue()
    readers = [asyncio.create_task(_read(index, one, merged)) for index, one in enumerate(waiting)]
    lengths = [0] * len(waiting)
    left = len(waiting)
    try:
        while left:
            index, piece = await merged.get()
            if piece is None:
                left -= 1
            elif isinstance(piece, LoraCliError):
                status, kind = STATUS.get(piece.exit_code, (500, "InternalServerError"))
                yield _event(error_body(piece.message, status, kind, piece.hint))
            else:
                completed += len(piece.ids)
                choice = _choice(asked, index, piece.text, piece.logprobs, piece.finish, lengths[index])
                lengths[index] += len(piece.text)
                if asked.return_token_ids:
                    choice |= {"token_ids": list(piece.ids)}
                yield _event({**head, "object": "text_completion", "choices": [choice]})
        if asked.stream_options.include_usage:
            yield _event({**head, "object": "text_completion", "choices": [], "usage": _usage(placed, completed)})
        yield b"data: [DONE]\n\n"
    finally:
        _leave(waiting)
        for reader in readers:
            reader.cancel()


async def _read(index: int, one: Waiting, into: "asyncio.Queue[tuple[int, Piece | LoraCliError | None]]") -> None:
    try:
        async for piece in one.pieces():
            into.put_nowait((index, piece))
    except LoraCliError as error:
        into.put_nowait((index, error))
    into.put_nowait((index, None))


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"
