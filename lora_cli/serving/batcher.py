"""Prompts that wait, into static batches of mixed adapters: first come, first served, one batch at a time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from lora_cli.errors import LoraCliError, MachineError
from lora_cli.runtime.messages import Complete, Completed, Heard, Piece, Placed, Row, Unanswered
from lora_cli.serving.host import Host

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
            asked = await asyncio.wrap_future(self._host.asking.submit(self._host.ask_for_many, complete, heard))
            done = await asyncio.wrap_future(asked.future)
            assert isinstance(done, Completed)
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
