"""Many adapters in one run: the same verdicts, in the same order, in processes that leave nothing behind."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.base.base_model import BaseModel
from lora_cli.errors import MachineError
from lora_cli.judging.judge import Terms, judge_all, judge_one
from lora_cli.judging.read import WORTH_PROCESSES
from lora_cli.judging.result import Result
from lora_cli.parallel import TOGETHER, in_processes
from lora_cli.refs.reference import is_path, parse
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import llama_modules, write_adapter

MANY = WORTH_PROCESSES + TOGETHER + 3


@pytest.fixture
def items(tmp_path: Path) -> list[Request]:
    """Every seventh is broken, and the last is not there."""
    for number in range(MANY):
        directory = write_adapter(tmp_path / f"a{number}", modules=llama_modules())
        if number % 7 == 0:
            (directory / "adapter_config.json").unlink()
    (tmp_path / "gone").symlink_to("nowhere")
    return [Request("", str(tmp_path / name)) for name in (*(f"a{number}" for number in range(MANY)), "gone")]


def told(checked: Result) -> tuple[object, ...]:
    return checked.name, checked.source, checked.findings, checked.skipped, checked.applied, str(checked.error)


def test_many_are_judged_as_each_one_alone_and_in_their_order(
    items: list[Request], base: BaseModel, settings: Settings
) -> None:
    whole, bare = (list(judge_all(items, Terms(base), settings, contents=contents)) for contents in (True, False))
    alone = [told(judge_one(item, Terms(base), settings)) for item in items]
    assert [told(one) for one in whole] == [told(one) for one in bare] == alone
    assert all(one.adapter is not None for one in whole[:-1])
    assert {one.adapter for one in bare} == {None}
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("parsed", [False, True], ids=["from the command line", "from a manifest"])
def test_who_stops_listening_leaves_no_process(items: list[Request], settings: Settings, *, parsed: bool) -> None:
    asked = [replace(one, source=parse(str(one.source), is_path=is_path) if parsed else one.source) for one in items]
    # So many that their pipes are full: a process that has sent everything may have ended by itself.
    verdicts = judge_all(20 * asked, Terms(), settings)
    next(verdicts)
    assert multiprocessing.active_children()
    verdicts.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_is_an_error_of_this_machine() -> None:
    def one(item: Request) -> Result:
        if item.name == "50":  # as the kernel kills processes that use too much memory
            os.kill(os.getpid(), signal.SIGKILL)
        return Result(item.name, str(item.source))

    got: list[Result] = []
    with pytest.raises(MachineError, match="killed"):
        got.extend(in_processes(one, [Request(str(index), "x") for index in range(100)], 2))
    assert [each.name for each in got] == [str(number) for number in range(50 - 50 % TOGETHER)]
    assert not multiprocessing.active_children()
