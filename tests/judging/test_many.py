"""Many adapters in one run: the same verdicts, in the same order, in processes that leave nothing behind."""

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.errors import MachineError
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, judge_all, judge_one
from lora_cli.judging.read import WORTH_PROCESSES
from lora_cli.judging.result import Result
from lora_cli.parallel import TOGETHER, in_processes
from lora_cli.refs.reference import is_path, parse
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import llama_modules, write_adapter, write_base_config

MANY = WORTH_PROCESSES + TOGETHER + 3


@pytest.fixture
def items(tmp_path: Path) -> list[Request]:
    """Every seventh is broken, and the last is not there."""
    for number in range(MANY):
        directory = write_adapter(tmp_path / f"a{number}", modules=llama_modules())
        if number % 7 == 0:
            (directory / "adapter_config.json").unlink()
    (tmp_path / "gone").symlink_to("nowhere")
    return [
        *(Request("", str(tmp_path / f"a{number}")) for number in range(MANY)),
        Request("", str(tmp_path / "gone")),
    ]


def told(checked: Result) -> tuple[object, ...]:
    return checked.name, checked.source, checked.findings, checked.skipped, checked.applied, str(checked.error)


def test_many_are_judged_as_each_one_alone_and_in_their_order(items: list[Request], tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path / "cache")
    terms = Terms(open_base(str(write_base_config(tmp_path / "base")), settings))

    together = list(judge_all(items, terms, settings))

    assert [told(one) for one in together] == [
        told(judge_one(Request("", item.source), terms, settings)) for item in items
    ]
    assert all(one.adapter is not None for one in together[:-1])
    assert not multiprocessing.active_children()


def test_without_contents_the_verdicts_are_the_same(items: list[Request], tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path / "cache")

    whole, bare = (list(judge_all(items, Terms(), settings, contents=contents)) for contents in (True, False))

    assert [told(one) for one in bare] == [told(one) for one in whole]
    assert {one.adapter for one in bare} == {None}


@pytest.mark.parametrize("parsed", [False, True], ids=["from the command line", "from a manifest"])
def test_who_stops_listening_leaves_no_process(items: list[Request], tmp_path: Path, *, parsed: bool) -> None:
    asked = [replace(one, source=parse(str(one.source), is_path=is_path) if parsed else one.source) for one in items]
    # So many that their pipes are full: a process that has sent everything may have ended by itself.
    verdicts = judge_all(20 * asked, Terms(), Settings(cache_dir=tmp_path / "cache"))
    next(verdicts)
    assert multiprocessing.active_children()

    verdicts.close()  # type: ignore[attr-defined]

    assert not multiprocessing.active_children()


def checked(item: Request) -> Result:
    return Result(item.name, str(item.source))


def killed_at(number: int) -> Sequence[Result]:
    """What comes before a process is killed as the kernel kills processes that use too much memory."""

    def one(item: Request) -> Result:
        if item.name == str(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return checked(item)

    got: list[Result] = []
    with pytest.raises(MachineError, match="killed"):
        got.extend(in_processes(one, [Request(str(index), "x") for index in range(100)], 2))
    return got


def test_a_process_that_is_killed_is_an_error_of_this_machine() -> None:
    assert [one.name for one in killed_at(50)] == [str(number) for number in range(50 - 50 % TOGETHER)]
    assert not multiprocessing.active_children()


def test_what_nobody_takes_yet_is_bounded(tmp_path: Path) -> None:
    def one(item: Request) -> Result:
        with (tmp_path / "begun").open("a") as log:
            log.write("x")
        return Result(item.name, "y" * 100_000)

    verdicts = in_processes(one, [Request(str(index), "x") for index in range(400)], 2)
    next(verdicts)
    time.sleep(0.5)
    begun = (tmp_path / "begun").stat().st_size
    verdicts.close()  # type: ignore[attr-defined]

    assert begun <= 4 * max(TOGETHER, 400 // 32)  # a batch in each pipe, and one that each process is at


@pytest.mark.slow
def test_processes_end_when_the_one_that_asked_is_killed(tmp_path: Path) -> None:
    def one(item: Request) -> Result:
        with (tmp_path / item.name).open("w") as log:
            log.write(str(os.getpid()))
        return Result(item.name, "y" * 100_000)

    def ask() -> None:
        for _ in in_processes(one, [Request(str(index), "x") for index in range(400)], 2):
            os.kill(os.getpid(), signal.SIGKILL)

    asking = multiprocessing.get_context("fork").Process(target=ask)
    asking.start()
    asking.join(20)

    assert asking.exitcode == -signal.SIGKILL
    pids = {int(path.read_text()) for path in tmp_path.iterdir() if path.read_text()}
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
