"""The scheduler: prompts wait in one queue, and are generated greedily in static batches of mixed adapters."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from lora_cli.errors import LoraCliError, MachineError
from lora_cli.runtime.messages import Generate, LoraRequest, OutputDelta, Row, RowEvent, RowFailed, RowScheduled
from lora_cli.serving.adapter_manager import AdapterManager
from lora_cli.serving.requests import GreedyRequest

MAX_BATCH_SIZE = 8
MAX_WAITING = 4096

Event = RowScheduled | OutputDelta | LoraCliError | None
"""An event of one prompt, in this order; None is its end."""


class PromptGroup:
    """The prompts of one request, and their events. The scheduler drops them once the request's task is done."""

    def __init__(self, request: GreedyRequest, lora: LoraRequest | None) -> None:
        options = request.max_tokens, request.alternatives, request.stop, request.ignore_eos
        self.rows = [Row(lora, prompt, *options) for prompt in request.prompts]
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
    """The adapters by name that the running batch has, and those that wait for a load or for the next batch."""

    running: Sequence[str] = ()
    waiting: Sequence[str] = ()


class Scheduler:
    """The queue of waiting prompts. One batch runs at a time, with at most ``MAX_BATCH_SIZE`` prompts.

    The adapters of a batch all fit into the slots at once. Lives in the server's event loop.
    """

    def __init__(self, manager: AdapterManager) -> None:
        self.manager = manager
        self._waiting: deque[tuple[PromptGroup, int]] = deque()
        self._running: Sequence[tuple[PromptGroup, int]] = ()
        self._task: asyncio.Task[None] | None = None

    def add(self, group: PromptGroup) -> None:
        """Queue prompts for the next batches.

        Raises:
            MachineError: the queue is full.
        """
        if len(self._waiting) + len(group.rows) > MAX_WAITING:
            raise MachineError(f"{MAX_WAITING} prompts are already waiting", hint="try again later")
        self._waiting.extend((group, index) for index in range(len(group.rows)))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    @property
    def activity(self) -> Activity:
        """The adapters that have requests."""
        states = self.manager.adapters
        loading = [one.item.name for one in states if one.loading is not None and not one.loading.done()]
        return Activity(sorted(_names(self._running)), sorted({*_names(self._waiting), *loading}))

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # requests that arrived in the same moment share a batch
            self._running = self._schedule()
            try:
                await self._run_batch(self._running)
            finally:
                self._running = ()

    async def _run_batch(self, batch: Sequence[tuple[PromptGroup, int]]) -> None:
        """Run one batch to its end. If it fails, every prompt that has not ended gets its error."""
        loop = asyncio.get_running_loop()

        def on_event(event: RowEvent) -> None:
            group, index = batch[event.row]
            loop.call_soon_threadsafe(group.put, index, event.error if isinstance(event, RowFailed) else event)

        end: LoraCliError | None = None
        try:
            await self.manager.ask("", Generate(tuple(group.rows[index] for group, index in batch)), on_event)
        except LoraCliError as error:
            end = error
        for group, index in batch:
            group.put(index, end)

    def _schedule(self) -> list[tuple[PromptGroup, int]]:
        """Take the next batch from the queue, first come, first served; the order of each adapter's prompts is kept."""
        batch: list[tuple[PromptGroup, int]] = []
        keys: set[str] = set()
        later: deque[tuple[PromptGroup, int]] = deque()
        for group, index in self._waiting:
            lora = group.rows[index].lora
            key = lora.key if lora is not None else ""
            if group.abandoned:
                continue
            if len(batch) < MAX_BATCH_SIZE and (not key or key in keys or len(keys) < self.manager.max_loras):
                batch.append((group, index))
                keys |= {key} if key else set()
            else:
                later.append((group, index))
        self._waiting = later
        return batch


def _names(prompts: Iterable[tuple[PromptGroup, int]]) -> set[str]:
    """The adapters of these prompts by name; the base has none."""
    requests = (group.rows[index].lora for group, index in prompts)
    return {lora.name for lora in requests if lora is not None}
