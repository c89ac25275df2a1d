"""OpenAI's completions and chat completions, answered greedily in static batches of mixed adapters."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response, StreamingResponse

from lora_cli.errors import LoraCliError, MachineError, NotFound
from lora_cli.runtime.messages import Complete, Heard, Job, Piece, Placed, Row, TokenLogprob, Unanswered
from lora_cli.serving.adapter_manager import Host
from lora_cli.serving.adapter_state import STATUS, Entry, shortened
from lora_cli.serving.requests import ChatRequest, CompletionRequest, GreedyRequest
from lora_cli.serving.responses import Json, encoded, error_body

CHAT, CHUNK, ASSISTANT = "chat.completion", "chat.completion.chunk", "assistant"
MOST_ROWS = 8
MOST_WAITING = 4096


Said = Placed | Piece | LoraCliError | None
"""What comes of a prompt, in this order; None is its end."""


class Prompts:
    """The prompts of one request, and what comes of them; no batch takes them any more once its task is done."""

    def __init__(self, asked: GreedyRequest, job: Job | None) -> None:
        options = asked.max_tokens, asked.alternatives, asked.stop, asked.ignore_eos
        self.rows = [Row(job, prompt, *options) for prompt in asked.prompts]
        self._heard: asyncio.Queue[tuple[int, Said]] = asyncio.Queue()
        self._early: deque[tuple[int, Said]] = deque()
        self._task = asyncio.current_task()

    @property
    def gone(self) -> bool:
        """Whether no client waits for them any more."""
        return self._task is not None and self._task.done()

    def put(self, index: int, said: Said) -> None:
        """What comes of one of them."""
        self._heard.put_nowait((index, said))

    async def placed(self) -> list[Placed]:
        """Where the adapter of each was found. Raises ``LoraCliError``: there will be no answer."""
        placed: dict[int, Placed] = {}
        while len(placed) < len(self.rows):
            index, said = await self._heard.get()
            if isinstance(said, Placed):
                placed[index] = said
            elif index not in placed and isinstance(said, LoraCliError):
                raise said
            else:
                self._early.append((index, said))
        return [placed[index] for index in range(len(placed))]

    async def pieces(self) -> AsyncIterator[tuple[int, Piece | LoraCliError]]:
        """Each answer after that, by the number of its prompt, as it grows; an error is where it breaks off."""
        left = set(range(len(self.rows)))
        while left:
            index, said = self._early.popleft() if self._early else await self._heard.get()
            if index in left and isinstance(said, Piece | LoraCliError):
                yield index, said
            if not isinstance(said, Piece) or said.finish:
                left.discard(index)


@dataclass(frozen=True, slots=True)
class Activity:
    """The adapters by name that a batch under way has, and those that wait for a load or for the next batch."""

    running: Sequence[str] = ()
    waiting: Sequence[str] = ()


class Batcher:
    """Holds what waits. A batch has at most ``MOST_ROWS`` prompts, of adapters that all fit into the slots at once.

    Lives in the server's event loop, and uses no other thread than those of the warm process.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._waiting: deque[tuple[Prompts, int]] = deque()
        self._running: Sequence[tuple[Prompts, int]] = ()
        self._task: asyncio.Task[None] | None = None

    def submit(self, prompts: Prompts) -> None:
        """Have prompts answered, each in the next batch that has room for it.

        Raises:
            MachineError: too many wait.
        """
        if len(self._waiting) + len(prompts.rows) > MOST_WAITING:
            raise MachineError(f"{MOST_WAITING} prompts are already waiting", hint="try again later")
        self._waiting.extend((prompts, index) for index in range(len(prompts.rows)))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    @property
    def activity(self) -> Activity:
        """Which adapters have requests."""
        loading = [one.item.name for one in self.host.entries if one.loading is not None and not one.loading.done()]
        return Activity(sorted(_names(self._running)), sorted({*_names(self._waiting), *loading}))

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # what arrived in the same moment goes together
            self._running = self._next_batch()
            await self._answer(self._running)
            self._running = ()

    async def _answer(self, batch: Sequence[tuple[Prompts, int]]) -> None:
        """One batch, to its end; its failure is the failure of what had no end yet."""
        loop = asyncio.get_running_loop()

        def heard(said: Heard) -> None:
            prompts, index = batch[said.row]
            loop.call_soon_threadsafe(prompts.put, index, said.error if isinstance(said, Unanswered) else said)

        end: LoraCliError | None = None
        try:
            complete = Complete(tuple(prompts.rows[index] for prompts, index in batch))
            asked = await self.host.ask("", complete, heard)
            await asyncio.wrap_future(asked.future)
        except LoraCliError as error:
            end = error
        for prompts, index in batch:
            prompts.put(index, end)

    def _next_batch(self) -> list[tuple[Prompts, int]]:
        """The prompts that have waited longest, as many as fit together; none overtakes another of its adapter."""
        batch: list[tuple[Prompts, int]] = []
        keys: set[str] = set()
        later: deque[tuple[Prompts, int]] = deque()
        for prompts, index in self._waiting:
            job = prompts.rows[index].job
            key = job.key if job is not None else ""
            if prompts.gone:
                continue
            if len(batch) < MOST_ROWS and (not key or key in keys or len(keys) < self.host.slots):
                batch.append((prompts, index))
                keys |= {key} if key else set()
            else:
                later.append((prompts, index))
        self._waiting = later
        return batch


def _names(prompts: Iterable[tuple[Prompts, int]]) -> set[str]:
    """The adapters of these prompts by name; the base has none."""
    jobs = (one.rows[index].job for one, index in prompts)
    return {job.name for job in jobs if job is not None}


async def complete(asked: GreedyRequest, base: str, batcher: Batcher) -> Response:
    """The response to one request, by ``base`` or an adapter. Raises ``LoraCliError`` while nothing of it was sent."""
    host = batcher.host
    entry = None if asked.model == base else _entry(host, asked.model)

    async def begin(job: Job | None) -> tuple[Prompts, list[Placed]]:
        prompts = Prompts(asked, job)
        batcher.submit(prompts)
        return prompts, await prompts.placed()

    if entry is None:
        (prompts, placed), found, load_ms = await begin(None), "", 0.0
    else:
        (prompts, placed), found, load_ms = await host.served(entry, begin)
    tier = found or placed[0].tier
    if entry is not None:
        host.used(entry, tier)
    headers = {"x-lora-tier": tier, "x-lora-load-ms": f"{load_ms + placed[0].load_ms:.3f}"} if tier else {}
    prefix, kind = ("chatcmpl", CHAT) if isinstance(asked, ChatRequest) else ("cmpl", "text_completion")
    head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model, "object": kind}
    if asked.stream:
        head["object"] = CHUNK if kind == CHAT else kind
        events = _events(asked, head, prompts, placed)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    return Json({**head, **await _whole(asked, prompts, placed)}, headers=headers)


def _entry(host: Host, model: str) -> Entry:
    """The adapter that is meant. Raises ``NotFound``."""
    try:
        return host.entries.of(model)
    except NotFound as error:
        raise NotFound(f"The model `{shortened(model)}` does not exist.", hint=error.hint) from error


async def _whole(asked: GreedyRequest, prompts: Prompts, placed: Sequence[Placed]) -> dict[str, Any]:
    """Each prompt's whole answer, and the usage. Raises ``LoraCliError``: one of them breaks off."""
    pieces: list[list[Piece]] = [[] for _ in placed]
    async for index, piece in prompts.pieces():
        if isinstance(piece, LoraCliError):
            raise piece
        pieces[index].append(piece)
    choices, completed = [], 0
    for index, parts in enumerate(pieces):
        ids = tuple(token for part in parts for token in part.ids)
        logprobs = tuple(log for part in parts for log in part.logprobs)
        text = "".join(part.text for part in parts)
        piece = Piece(index, ids, text, logprobs, parts[-1].finish)
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
    asked: GreedyRequest, head: Mapping[str, Any], prompts: Prompts, placed: Sequence[Placed]
) -> AsyncIterator[bytes]:
    """Server-sent events: each piece of each answer as it comes, the usage if asked for, and the end."""
    completed, lengths = 0, [0] * len(placed)
    if not isinstance(asked, CompletionRequest):  # the first piece says whose turn it is
        first = {"index": 0, "delta": {"role": ASSISTANT, "content": ""}, "logprobs": None, "finish_reason": None}
        yield _event({**head, "choices": [first]})
    async for index, piece in prompts.pieces():
        if isinstance(piece, LoraCliError):
            status, kind = STATUS.get(piece.exit_code, (500, "InternalServerError"))
            yield _event(error_body(piece.message, status, kind, piece.hint))
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


def _choice(asked: CompletionRequest, index: int, piece: Piece, offset: int = 0) -> dict[str, Any]:
    """What ``piece`` adds to an answer of ``offset`` characters so far."""
    told = _logprobs(piece.logprobs, offset) if asked.logprobs is not None else None
    choice = {"index": index, "text": piece.text, "logprobs": told, "finish_reason": piece.finish or None}
    return {**choice, "token_ids": piece.ids} if asked.return_token_ids else choice


def _turn(asked: GreedyRequest, piece: Piece, key: str) -> dict[str, Any]:
    """The assistant's turn, or what ``piece`` adds to it, under ``key``: ``message`` or ``delta``."""
    said = {"role": ASSISTANT, "content": piece.text} if key == "message" else {"content": piece.text}
    told = None if asked.alternatives is None else {"content": [_of_token(one) for one in piece.logprobs]}
    return {"index": 0, key: said, "logprobs": told, "finish_reason": piece.finish or None}


def _of_token(one: TokenLogprob) -> dict[str, Any]:
    """As OpenAI's chats have it: a token with its bytes, and the most likely ones at its place."""
    top = [{"token": token, "logprob": log, "bytes": list(token.encode())} for token, log in one.top.items()]
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode()), "top_logprobs": top}


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


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"
