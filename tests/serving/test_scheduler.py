"""The queue of prompts: which start, in which order, and what starts when one ends."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lora_cli.adapter.adapter import Adapter
from lora_cli.errors import LoraCliError, MachineError
from lora_cli.runtime.messages import MAX_BATCH_SIZE, Generate, LoraRequest, OutputDelta, RowEvent, RowFailed
from lora_cli.serving.adapter_manager import AdapterManager
from lora_cli.serving.requests import CompletionRequest
from lora_cli.serving.scheduler import MAX_WAITING, PromptGroup, Scheduler


class Manager:
    """In place of the warm process: says which prompts it was asked to generate; the test ends them."""

    def __init__(self, max_loras: int) -> None:
        self.max_loras, self.adapters, self.placing = max_loras, (), 0
        self.on_placed: Callable[[], None] = lambda: None
        self.running: dict[str, tuple[int, Callable[[RowEvent], None], asyncio.Future[int]]] = {}
        self.started: list[str] = []
        self.requests: list[int] = []

    async def ask(self, _name: str, message: Generate, on_event: Callable[[RowEvent], None]) -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.requests.append(len(message.rows))
        for number, row in enumerate(message.rows):
            self.started.append(str(row.prompt))
            self.running[str(row.prompt)] = number, on_event, ended
        return await ended

    async def end(self, prompt: str, event: Callable[[int], RowEvent] | None = None) -> None:
        number, on_event, ended = self.running.pop(prompt)
        on_event(event(number) if event is not None else OutputDelta(number, (), "", finish="length"))
        if not any(other is ended for _, _, other in self.running.values()):
            ended.set_result(1)
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def lora(name: str) -> LoraRequest:
    return LoraRequest(name, Path(name), cast(Adapter, None), name)


class Queue:
    def __init__(self, max_loras: int = 2) -> None:
        self.manager = Manager(max_loras)
        self.scheduler = Scheduler(cast(AdapterManager, self.manager))

    async def add(self, *prompts: str) -> PromptGroup:
        """Prompts ``NAME.NUMBER`` of the adapter NAME; that of the base is ``base``."""
        name = prompts[0].partition(".")[0]
        fields = {"model": name, "prompt": list(prompts), "max_tokens": 1}
        group = PromptGroup(CompletionRequest.model_validate(fields), None if name == "base" else lora(name))
        group._task = None  # its client waits as long as the test
        self.scheduler.add(group)
        await settled()
        return group


def many(prompts: int) -> SimpleNamespace:
    """A request with more prompts than one client may send."""
    return SimpleNamespace(max_tokens=1, logprobs=None, stop=(), ignore_eos=False, prompt=("a",) * prompts)


def run(test: Callable[[Queue], Coroutine[Any, Any, None]], **options: int) -> None:
    async def whole() -> None:
        await test(Queue(**options))

    asyncio.run(whole())


def test_a_prompt_starts_at_once_beside_those_that_run() -> None:
    async def test(queue: Queue) -> None:
        await queue.add("a.1", "a.2")
        await queue.add("b.1")
        assert queue.manager.requests == [2, 1]
        assert queue.scheduler.activity.running == ["a", "b"]

    run(test)


def test_prompts_of_two_adapters_at_once_are_two_requests_so_that_neither_waits_for_the_others_load() -> None:
    async def test(queue: Queue) -> None:
        for name in ("a", "b", "a"):
            queue.scheduler.add(PromptGroup(cast(CompletionRequest, many(2)), lora(name)))
        await settled()
        assert queue.manager.requests == [4, 2]

    run(test)


def test_a_prompt_that_ends_makes_room_for_the_next_one_only() -> None:
    async def test(queue: Queue) -> None:
        await queue.add(*(f"a.{number}" for number in range(MAX_BATCH_SIZE + 2)))
        assert len(queue.manager.started) == MAX_BATCH_SIZE
        assert queue.scheduler.activity.waiting == ["a"]
        await queue.manager.end("a.3")
        assert queue.manager.started[MAX_BATCH_SIZE:] == [f"a.{MAX_BATCH_SIZE}"]
        await queue.manager.end("a.5", lambda row: RowFailed(row, MachineError("no")))
        assert queue.manager.started[MAX_BATCH_SIZE:] == [f"a.{MAX_BATCH_SIZE}", f"a.{MAX_BATCH_SIZE + 1}"]

    run(test)


def test_an_adapter_without_a_slot_waits_for_the_first_that_is_free() -> None:
    async def test(queue: Queue) -> None:
        for prompt in ("a.1", "b.1", "c.1", "a.2", "base"):
            await queue.add(prompt)
        assert queue.manager.started == ["a.1", "b.1", "a.2", "base"]
        await queue.manager.end("a.1")
        assert queue.manager.started[4:] == [], "a.2 still has the slot"
        await queue.manager.end("b.1")
        assert queue.manager.started[4:] == ["c.1"]

    run(test)


def test_an_adapter_without_a_slot_is_not_overtaken_for_ever() -> None:
    async def test(queue: Queue) -> None:
        for prompt in ("a.run", "b.1", "c.1", *(f"a.{number}" for number in range(3 * MAX_BATCH_SIZE))):
            await queue.add(prompt)
        while "c.1" not in queue.manager.started:
            await queue.manager.end(next(one for one in queue.manager.running if one.startswith("a.")))
        assert queue.manager.started.index("c.1") == len(("a.run", "b.1")) + MAX_BATCH_SIZE

    run(test)


def test_a_slot_is_left_for_an_adapter_that_is_loaded_for_the_first_time() -> None:
    async def test(queue: Queue) -> None:
        await queue.add("a.1")
        await queue.add("b.1")
        queue.manager.placing = 1
        await queue.add("a.2")
        await queue.add("base")
        assert queue.manager.started == ["a.1", "b.1", "base"], "no prompt keeps a or b in its slot"
        await queue.manager.end("b.1")
        assert queue.manager.started[3:] == ["a.2"]
        queue.manager.placing = 0
        await queue.add("c.1")
        assert queue.manager.started[4:] == ["c.1"]

    run(test)


def test_what_waited_for_a_load_starts_when_it_has_ended() -> None:
    async def test(queue: Queue) -> None:
        queue.manager.placing = 1
        await queue.add("a.1")
        assert queue.manager.started == []
        queue.manager.placing = 0
        queue.manager.on_placed()
        await settled()
        assert queue.manager.started == ["a.1"]

    run(test, max_loras=1)


def test_prompts_of_clients_that_are_gone_make_room() -> None:
    async def test(queue: Queue) -> None:
        await queue.add(*(f"a.{number}" for number in range(MAX_BATCH_SIZE)))
        gone = PromptGroup(cast(CompletionRequest, many(MAX_WAITING)), lora("gone"))
        queue.scheduler.add(gone)
        gone._task = cast("asyncio.Task[None]", SimpleNamespace(done=lambda: True))
        assert queue.scheduler.activity.waiting == []
        await queue.add("b.1")
        assert queue.scheduler.activity.waiting == ["b"]

    run(test)


def test_a_request_that_fails_is_an_error_of_each_of_its_prompts_and_the_queue_goes_on() -> None:
    async def test(queue: Queue) -> None:
        group = await queue.add(*(f"a.{number}" for number in range(MAX_BATCH_SIZE)))
        await queue.add("b.1")
        assert "b.1" not in queue.manager.started
        queue.manager.running["a.0"][2].set_exception(MachineError("it died"))
        await settled()
        with pytest.raises(LoraCliError, match="it died"):
            await group.scheduled()
        assert queue.manager.started[-1] == "b.1"

    run(test)


def test_a_full_queue_refuses_more() -> None:
    async def test(queue: Queue) -> None:
        queue.scheduler.add(PromptGroup(cast(CompletionRequest, many(MAX_WAITING)), lora("a")))
        with pytest.raises(MachineError, match="already waiting"):
            await queue.add("a.1")

    run(test)
