"""The scheduler: prompts wait in one queue until there is room among those that are generated, of any adapters."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass

from lora_cli.errors import LoraCliError, MachineError
from lora_cli.runtime.messages import (
    MAX_BATCH_SIZE,
    Generate,
    LoraRequest,
    OutputDelta,
    Row,
    RowEvent,
    RowFailed,
    RowScheduled,
)
from lora_cli.serving.adapter_manager import AdapterManager
from lora_cli.serving.requests import CompletionRequest
from lora_cli.text import by_key

MAX_WAITING = 4096

Event = RowScheduled | OutputDelta | LoraCliError | None
"""An event of one prompt, in this order; None is its end."""


class PromptGroup:
    """The prompts of one request, and their events. The scheduler drops them once the request's task is done."""

    def __init__(self, request: CompletionRequest, lora: LoraRequest | None) -> None:
        options = request.max_tokens, request.logprobs is not None, request.stop, request.ignore_eos
        self.rows = [Row(lora, prompt, *options) for prompt in request.prompt]
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._early: deque[tuple[int, Event]] = deque()
        self._task = asyncio.current_task()

    @property
    def abandoned(self) -> bool:
        """Whether no client waits for them any more."""
        return self._task is not None and self._task.done()

    def put(self, index: int, event: Event) -> None:
        """Add an event of one of the prompts."""
        self._events.put_nowait((index, event))

    async def scheduled(self) -> list[RowScheduled]:
        """Wait until every prompt has its adapter in a slot. Raises ``LoraCliError`` if one of them failed."""
        scheduled: dict[int, RowScheduled] = {}
        while len(scheduled) < len(self.rows):
            index, event = await self._events.get()
            if isinstance(event, RowScheduled):
                scheduled[index] = event
            elif index not in scheduled and isinstance(event, LoraCliError):
                raise event
            else:
                self._early.append((index, event))
        return [scheduled[index] for index in range(len(scheduled))]

    async def deltas(self) -> AsyncIterator[tuple[int, OutputDelta | LoraCliError]]:
        """The output of each prompt after ``scheduled``, as it grows, with the prompt's index; an error ends it."""
        running = set(range(len(self.rows)))
        while running:
            index, event = self._early.popleft() if self._early else await self._events.get()
            if index in running and isinstance(event, OutputDelta | LoraCliError):
                yield index, event
            if not isinstance(event, OutputDelta) or event.finish:
                running.discard(index)


@dataclass(frozen=True, slots=True)
class Activity:
    """The adapters by name of the prompts that are generated, and of those that wait for a load or for room."""

    running: Sequence[str] = ()
    waiting: Sequence[str] = ()


Prompt = tuple[PromptGroup, int]
"""One prompt of a group."""


class Scheduler:
    """The queue of waiting prompts. Up to ``MAX_BATCH_SIZE`` are generated at once; when one ends, the next one starts.

    Their adapters all fit into the slots at once. Lives in the server's event loop.
    """

    def __init__(self, manager: AdapterManager) -> None:
        self.manager = manager
        self._waiting: deque[Prompt] = deque()
        self._running: list[Prompt] = []
        self._overtaken = 0
        self._tasks = set[asyncio.Task[None]]()
        manager.on_placed = self._start_next

    def add(self, group: PromptGroup) -> None:
        """Queue prompts, to start as soon as there is room.

        Raises:
            MachineError: the queue is full.
        """
        if len(self._waiting) + len(group.rows) > MAX_WAITING:
            self._waiting = deque(one for one in self._waiting if not one[0].abandoned)
        if len(self._waiting) + len(group.rows) > MAX_WAITING:
            raise MachineError(f"{MAX_WAITING} prompts are already waiting", hint="try again later")
        self._waiting.extend((group, index) for index in range(len(group.rows)))
        self._start_next()

    @property
    def activity(self) -> Activity:
        """The adapters that have requests."""
        states = self.manager.adapters
        loading = [one.item.name for one in states if one.loading is not None and not one.loading.done()]
        waiting = [one for one in self._waiting if not one[0].abandoned]
        return Activity(sorted(_names(self._running)), sorted({*_names(waiting), *loading}))

    def _start_next(self) -> None:
        self._start(self._run_next())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_next(self) -> None:
        """Generate the prompts that there is room for, those of each adapter as one request: none waits for a load."""
        await asyncio.sleep(0)  # requests that arrived in the same moment start together
        prompts = self._schedule()
        self._running += prompts
        for same in by_key((_key(one), one) for one in prompts).values():
            self._start(self._generate(same))

    async def _generate(self, prompts: Sequence[Prompt]) -> None:
        """Generate prompts of one adapter. If that fails, each that has not ended gets the error."""
        loop = asyncio.get_running_loop()

        def on_event(event: RowEvent) -> None:
            loop.call_soon_threadsafe(self._deliver, prompts[event.row], event)

        end: LoraCliError | None = None
        try:
            await self.manager.ask("", Generate(tuple(group.rows[index] for group, index in prompts)), on_event)
        except LoraCliError as error:
            end = error
        for group, index in prompts:
            self._end((group, index))
            group.put(index, end)

    def _deliver(self, prompt: Prompt, event: RowEvent) -> None:
        group, index = prompt
        group.put(index, event.error if isinstance(event, RowFailed) else event)
        if isinstance(event, RowFailed) or (isinstance(event, OutputDelta) and event.finish):
            self._end(prompt)

    def _end(self, prompt: Prompt) -> None:
        """A prompt has ended: there is room for another."""
        if prompt in self._running:
            self._running.remove(prompt)
            self._start_next()

    def _schedule(self) -> list[Prompt]:
        """Take the prompts that there is room for, first come, first served, also among the prompts of one adapter.

        If there is no slot for the first one's adapter, at most ``MAX_BATCH_SIZE`` others start before it. While an
        adapter is loaded for the first time, one slot is left for it.
        """
        taken: list[Prompt] = []
        later: deque[Prompt] = deque()
        keys = {_key(one) for one in self._running} - {""}
        room, slots = MAX_BATCH_SIZE - len(self._running), self.manager.max_loras - bool(self.manager.placing)
        while self._waiting and len(taken) < room and (not later or self._overtaken < MAX_BATCH_SIZE):
            prompt = self._waiting.popleft()
            key = _key(prompt)
            if prompt[0].abandoned:
                continue
            if key and len({*keys, key}) > slots:
                later.append(prompt)
                continue
            taken.append(prompt)
            keys |= {key} - {""}
            self._overtaken = self._overtaken + 1 if later else 0
        self._waiting = later + self._waiting
        return taken


def _key(prompt: Prompt) -> str:
    """The key of its adapter in the tiers; empty for the base."""
    lora = prompt[0].rows[prompt[1]].lora
    return lora.key if lora is not None else ""


def _names(prompts: Iterable[tuple[PromptGroup, int]]) -> set[str]:
    """The adapters of these prompts by name; the base has none."""
    requests = (group.rows[index].lora for group, index in prompts)
    return {lora.name for lora in requests if lora is not None}
