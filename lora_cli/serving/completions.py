"""``POST /v1/completions``: OpenAI's completions, answered greedily in static batches of mixed adapters."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response, StreamingResponse

from lora_cli.errors import LoraCliError, MachineError, NotFound, UsageError
from lora_cli.runtime.messages import Complete, Heard, Job, Piece, Placed, Row, TokenLogprob, Unanswered
from lora_cli.serving.adapters import Entry, shortened
from lora_cli.serving.answers import STATUS, Json, encoded, error_body
from lora_cli.serving.host import Host, had, taken_away
from lora_cli.serving.requests import CompletionRequest

MOST_ROWS = 8
MOST_WAITING = 4096


class Waiting:
    """One prompt from its request to its end: what comes of it, in order; ``gone`` when nobody reads it any more."""

    def __init__(self, row: Row) -> None:
        self.row, self.gone = row, False
        self._heard: asyncio.Queue[Heard | LoraCliError | None] = asyncio.Queue()

    def put(self, said: Heard | LoraCliError | None) -> None:
        """What comes next; None is the end."""
        self._heard.put_nowait(said)

    async def placed(self) -> Placed:
        """Where its adapter was found: what comes first. Raises ``LoraCliError``: there will be no answer."""
        said = await self._next()
        assert isinstance(said, Placed)
        return said

    async def pieces(self) -> AsyncIterator[Piece]:
        """Its answer as it grows. Raises ``LoraCliError`` where it breaks off."""
        while (said := await self._next()) is not None:
            assert isinstance(said, Piece)
            yield said
            if said.finish:
                return

    async def _next(self) -> Placed | Piece | None:
        said = await self._heard.get()
        if isinstance(said, LoraCliError):
            raise said
        if isinstance(said, Unanswered):
            raise said.error
        return said


class Batcher:
    """Holds what waits. A batch has at most ``rows`` prompts of at most ``slots`` adapters: all of them fit at once.

    Lives in the server's event loop, and uses no other thread than those of the warm process.
    """

    def __init__(self, host: Host, slots: int, rows: int = MOST_ROWS) -> None:
        self._host, self._slots, self._rows = host, slots, rows
        self._waiting: deque[Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Prompts that wait for a batch."""
        return len(self._waiting)

    def submit(self, row: Row) -> Waiting:
        """Have a prompt answered, in the next batch that has room for it.

        Raises:
            MachineError: too many wait.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise MachineError(f"{MOST_WAITING} prompts wait already", hint="ask again later")
        one = Waiting(row)
        self._waiting.append(one)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return one

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # what arrived in the same moment goes together
            await self._answer(self._next_batch())

    async def _answer(self, batch: Sequence[Waiting]) -> None:
        """One batch, to its end; its failure is the failure of what had no end yet."""
        loop = asyncio.get_running_loop()

        def heard(said: Heard) -> None:
            loop.call_soon_threadsafe(batch[said.row].put, said)

        try:
            complete = Complete(tuple(one.row for one in batch))
            asked = await asyncio.wrap_future(self._host.asking.submit(self._host.ask, "", complete, heard))
            await asyncio.wrap_future(asked.future)
        except LoraCliError as error:
            for one in batch:
                one.put(error)
        for one in batch:
            one.put(None)

    def _next_batch(self) -> list[Waiting]:
        """The prompts that have waited longest, as many as fit together; none overtakes another of its adapter."""
        batch: list[Waiting] = []
        keys: set[str] = set()
        later: deque[Waiting] = deque()
        while self._waiting:
            one = self._waiting.popleft()
            key = one.row.job.key if one.row.job is not None else ""
            if one.gone:
                continue
            if len(batch) < self._rows and (not key or key in keys or len(keys) < self._slots):
                batch.append(one)
                keys |= {key} if key else set()
            else:
                later.append(one)
        self._waiting = later
        return batch


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
            return self._host.entries.of(model)
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
