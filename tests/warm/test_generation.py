"""Rows that join a running batch and leave it say what each says alone, on tiny models of the families."""

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lora_cli.errors import LoraCliError, MachineError, Refused
from lora_cli.runtime.device_lock import DeviceLock
from lora_cli.runtime.full_model import FullModel
from lora_cli.runtime.generation import GeneratingRow, GenerationLoop
from lora_cli.runtime.generation_batch import GenerationBatch, greedy
from lora_cli.runtime.messages import OutputDelta, Row, RowFailed
from tests.making import VOCAB
from tests.runtime.test_peft_oracle import CASES, Pair

PROMPTS = {"long": 9, "short": 3, "longest": 17, "one": 1, "other": 6}
TOKENS = {"long": 24, "short": 2, "longest": 5, "one": 12, "other": 7}
FULL_MODEL = cast(FullModel, SimpleNamespace(decode=None, ends=frozenset()))


@pytest.fixture(scope="module", params=["llama q/v", "gpt2 conv1d", "gemma2", "gpt_neox"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    assert request.param in CASES
    return Pair(tmp_path_factory.mktemp("pair"), request.param)


class Client:
    """Completes rows, each in a thread of its own; ``after`` starts others when a row has two tokens."""

    def __init__(self, pair: Pair) -> None:
        self.loop = GenerationLoop(pair.ours, DeviceLock())
        self.pair = pair
        self.output: dict[str, list[int]] = {}
        self.ended: list[str] = []
        self.errors: dict[str, LoraCliError] = {}
        self.released: list[str] = []
        self.threads: list[threading.Thread] = []

    def slot(self, name: str) -> int:
        return 0 if name in {"short", "one"} else self.pair.slot

    def prompt(self, name: str) -> tuple[int, ...]:
        generator = torch.Generator().manual_seed(len(name))
        return tuple(torch.randint(VOCAB, (PROMPTS[name],), generator=generator).tolist())

    def start(self, *names: str, after: tuple[str, ...] = ()) -> None:
        def on_event(event: object) -> None:
            assert isinstance(event, OutputDelta | RowFailed)
            name = names[event.row]
            if isinstance(event, RowFailed):
                self.errors[name] = event.error
                return
            self.output.setdefault(name, []).extend(event.ids)
            if event.finish:
                self.ended.append(name)
            if len(self.output[name]) == 2 and name == names[0]:
                for other in after:
                    self.start(other)
                time.sleep(0.05 * bool(after))  # until they wait

        rows = []
        for number, name in enumerate(names):
            prompt = self.prompt(name)
            row = GeneratingRow(number, Row(None, prompt, TOKENS[name]), prompt, FULL_MODEL, on_event)
            row.slot = self.slot(name)
            row.lease.callback(self.released.append, name)
            rows.append(row)
        self.threads.append(threading.Thread(target=self.loop.complete, args=(rows,)))
        self.threads[-1].start()

    def wait(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()

    def alone(self, name: str) -> list[int]:
        return greedy(self.pair.ours, self.prompt(name), self.slot(name), TOKENS[name], ())[0]


def test_rows_that_join_and_leave_say_what_each_says_alone(pair: Pair) -> None:
    client = Client(pair)

    client.start("long", "short", after=("longest", "one", "other"))
    client.wait()

    assert client.output == {name: client.alone(name) for name in PROMPTS}
    assert client.ended[-1] == "long", "those that came later did not wait for its end"
    assert sorted(client.released) == sorted(PROMPTS), "each once"


def test_ended_rows_are_no_longer_computed_and_new_ones_are_in_the_same_batch(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    logits = GenerationBatch.logits

    def counted(batch: GenerationBatch) -> torch.Tensor:
        found = logits(batch)
        rows.append(len(found))
        return found

    monkeypatch.setattr(GenerationBatch, "logits", counted)
    client = Client(pair)
    client.start("long", "short", after=("other",))
    client.wait()

    if pair.base.model_type == "gemma2":  # its cache has layers with a sliding window
        assert rows.count(2) == TOKENS["long"]
        assert rows.count(1) == TOKENS["other"]
    else:
        assert rows[:2] == [2, 2]
        assert rows.count(2) == 2 + TOKENS["other"] - 1, "beside the first two steps: the other's, but its prompt"
        assert rows[-1] == 1


def test_an_ended_row_leaves_its_slot_before_another_adapter_may_get_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots: list[list[int]] = []
    logits = GenerationBatch.logits

    def recorded(batch: Any) -> torch.Tensor:
        slots.append(list(batch._slots))
        return logits(batch)

    monkeypatch.setattr(GenerationBatch, "logits", recorded)
    client = Client(pair)
    client.start("one", "other")
    client.wait()

    assert slots[: TOKENS["other"]] == [[0, pair.slot]] * TOKENS["other"]
    assert all(pair.slot not in step for step in slots[TOKENS["other"] :])
    assert client.output == {name: client.alone(name) for name in ("one", "other")}


def test_a_model_that_refuses_mixed_batches_has_one_for_each_adapter(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = GenerationBatch.logits

    def refusing(batch: Any) -> torch.Tensor:
        if len(set(batch._slots)) > 1:
            raise Refused("rows are flattened")
        return logits(batch)

    monkeypatch.setattr(GenerationBatch, "logits", refusing)
    client = Client(pair)
    client.start("long", after=("one", "other"))
    client.wait()

    assert client.output == {name: client.alone(name) for name in ("long", "one", "other")}
    assert client.errors == {}


@pytest.mark.parametrize("step", ["join", "select"])
def test_out_of_memory_while_rows_join_or_leave_ends_them_and_no_request_waits_for_ever(
    step: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    client = Client(pair)
    with monkeypatch.context() as patch:
        patch.setattr(GenerationBatch, step, failing)
        client.start("long", "short", after=("other",))
        client.wait()
    ended = {*client.ended, *client.errors}
    assert ended == {"long", "short", "other"}
    assert sorted(client.released) == sorted(ended)
    assert all(isinstance(error, MachineError) for error in client.errors.values())
    assert bool(client.errors) == (pair.base.model_type != "gemma2")

    client.start("one")
    client.wait()
    assert client.output["one"] == client.alone("one")


def test_a_failed_step_is_an_error_of_every_row_in_it_and_of_no_later_one(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(pair)
    with monkeypatch.context() as patch:

        def failing(batch: GenerationBatch) -> torch.Tensor:
            raise torch.OutOfMemoryError("no memory")

        patch.setattr(GenerationBatch, "logits", failing)
        client.start("long", "short")
        client.wait()
    assert {name: type(error) for name, error in client.errors.items()} == dict.fromkeys(
        ("long", "short"), MachineError
    )
    assert sorted(client.released) == ["long", "short"]

    client.start("one")
    client.wait()

    assert client.output == {"one": client.alone("one")}
