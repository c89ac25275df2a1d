"""Where fetch, read and rules meet: adapters judged in place, one or many, and on their way into the cache."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.base.base_model import BaseModel
from lora_cli.checks import CHECKS
from lora_cli.checks.case import Case
from lora_cli.errors import MachineError
from lora_cli.fetching.batch import FetchContext
from lora_cli.finding import Applied, Problem
from lora_cli.judging.judge import fetch_one, judge_fetched, judge_one
from lora_cli.judging.read import WORTH_PROCESSES, Terms, each
from lora_cli.judging.result import Result
from lora_cli.parallel import TOGETHER, in_processes
from lora_cli.refs.reference import is_path, parse
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.store import Store
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


def test_a_good_adapter_is_judged_by_every_rule_and_nothing_is_written(
    tmp_path: Path, base: BaseModel, settings: Settings
) -> None:
    write_adapter(tmp_path / "good", modules=llama_modules())
    checked = judge_one(Request("", str(tmp_path / "good")), Terms(settings, base))
    assert (checked.findings, checked.skipped, checked.refused()) == ((), (), False)
    assert checked.applied == Applied(14, 14)
    assert list(checked.stage_ms) == ["validate"]
    assert not settings.cache_dir.exists()


def test_many_are_judged_as_each_one_alone_and_in_their_order(
    items: list[Request], base: BaseModel, settings: Settings
) -> None:
    terms = Terms(settings, base)
    whole, bare = (list(each(items, judge_one, one)) for one in (terms, replace(terms, contents=False)))
    assert [told(one) for one in whole] == [told(one) for one in bare] == [told(judge_one(one, terms)) for one in items]
    assert all(one.adapter is not None for one in whole[:-1])
    assert {one.adapter for one in bare} == {None}
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("parsed", [False, True], ids=["from the command line", "from a manifest"])
def test_who_stops_listening_leaves_no_process(items: list[Request], settings: Settings, *, parsed: bool) -> None:
    asked = [replace(one, source=parse(str(one.source), is_path=is_path) if parsed else one.source) for one in items]
    # So many that their pipes are full: a process that has sent everything may have ended by itself.
    results = each(20 * asked, judge_one, Terms(settings))
    next(results)
    assert multiprocessing.active_children()
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_is_an_error_of_this_machine() -> None:
    def one(item: Request) -> Result:
        if item.name == "50":  # as the kernel kills processes that use too much memory
            multiprocessing.current_process().kill()
        return Result(item.name, str(item.source))

    got: list[Result] = []
    with pytest.raises(MachineError, match="killed"):
        got.extend(in_processes(one, [Request(str(index), "x") for index in range(100)], 2))
    assert [each.name for each in got] == [str(number) for number in range(50 - 50 % TOGETHER)]
    assert not multiprocessing.active_children()


def test_a_bug_in_a_rule_fails_the_adapter_that_shows_it(
    items: list[Request], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(case: Case) -> Iterator[Problem]:
        if case.adapter.name.endswith("a3"):
            raise KeyError("made to fail")
        yield from ()

    terms = Terms(replace(settings, jobs=2), rules=(replace(CHECKS[0], needs=(), find=broken),))
    (failed,) = (one for one in each(items[:-1], judge_one, terms) if one.error)
    assert (failed.name, failed.error and failed.error.exit_code) == (items[3].source, 70)
    assert "KeyError: 'made to fail'" in str(failed.error)
    judge_one(items[3], terms)
    assert "a bug of lora-cli: KeyError" in caplog.text


@pytest.mark.parametrize(("stage", "exit_code"), [("absent", 3), ("fetch", 1), ("validate", 1), ("", 0)])
def test_an_adapter_is_fetched_and_judged_and_a_refused_one_says_at_which_stage(
    stage: str, exit_code: int, tmp_path: Path, base: BaseModel, settings: Settings
) -> None:
    lacking = "lora_B" if stage == "validate" else "-"
    folder = write_adapter(tmp_path / "adapter", modules=llama_modules(), drop=lambda name: lacking in name)
    if stage == "absent":
        folder = folder / "gone"
    elif stage == "fetch":
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.safetensors").symlink_to("gone")
    with FetchContext(Store(settings.cache_dir), settings) as context:
        result = judge_fetched(fetch_one(Request("x", str(folder)), context), Terms(settings, base))
    stages, stage = ["fetch", "validate"], stage.replace("absent", "fetch")
    assert (result.stage, result.refusal.exit_code if result.refusal else 0) == (stage, exit_code)
    assert list(result.stage_ms) == (stages[: stages.index(stage) + 1] if stage else stages)
    assert stage or (result.snapshot and (result.snapshot.directory / "adapter_model.safetensors").is_file())
