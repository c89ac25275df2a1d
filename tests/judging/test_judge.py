"""Where fetch, read and rules meet: adapters judged in place."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.base.base_model import BaseModel
from lora_cli.checks import CHECKS
from lora_cli.checks.case import Case
from lora_cli.errors import NotFound, UsageError
from lora_cli.finding import Applied, Problem
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, judge_all, judge_one
from lora_cli.judging.read import WORTH_PROCESSES
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import llama_modules, write_adapter, write_base


def test_a_good_adapter_is_judged_by_every_rule_and_nothing_is_written(
    tmp_path: Path, base: BaseModel, settings: Settings
) -> None:
    write_adapter(tmp_path / "good", modules=llama_modules())
    checked = judge_one(Request("", str(tmp_path / "good")), Terms(base), settings)
    assert (checked.findings, checked.skipped, checked.refused()) == ((), (), False)
    assert checked.applied == Applied(14, 14)
    assert list(checked.stage_ms) == ["resolve", "read", "values", "rules"]
    assert not settings.cache_dir.exists()


def test_modules_that_the_base_lacks_count_among_all(tmp_path: Path, base: BaseModel, settings: Settings) -> None:
    more = {"model.layers.0.self_attn.qkv_proj": (64, 64), "model.layers.7.self_attn.q_proj": (64, 64)}
    write_adapter(tmp_path / "more", modules={**llama_modules(["q_proj"]), **more})
    assert judge_one(Request("", str(tmp_path / "more")), Terms(base), settings).applied == Applied(2, 4)


@pytest.mark.parametrize(("source", "error"), [("/nowhere/gone", NotFound), ("sql", UsageError)])
def test_what_is_not_there_is_an_error_of_its_own(source: str, error: type[Exception], settings: Settings) -> None:
    assert isinstance(judge_one(Request("", source), Terms(), settings).error, error)


def test_without_a_base_nothing_is_said_to_apply(tmp_path: Path, settings: Settings) -> None:
    write_adapter(tmp_path / "good", modules=llama_modules())
    verdict = judge_one(Request("", str(tmp_path / "good")), Terms(), settings)
    assert verdict.applied is None
    assert {one.reason for one in verdict.skipped} == {"no base model was given"}
    assert {one.code for one in verdict.skipped} == {
        check.code for check in CHECKS if "base" in check.needs and (check.floor is not None or check.effects["peft"])
    }


def test_a_bug_in_a_rule_fails_the_adapter_that_shows_it(
    tmp_path: Path, base: BaseModel, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2 * WORTH_PROCESSES):
        write_adapter(tmp_path / f"adapter-{number:02}", modules=llama_modules())

    def broken(case: Case) -> Iterator[Problem]:
        if case.adapter.name == "adapter-03":
            raise KeyError("made to fail")
        yield from ()

    terms = Terms(base, rules=(replace(CHECKS[0], needs=(), find=broken),))
    items = [Request(folder.name, str(folder)) for folder in sorted(tmp_path.glob("adapter-*"))]
    failed = {one.name: one.error for one in judge_all(items, terms, replace(settings, jobs=2)) if one.error}
    assert failed.keys() == {"adapter-03"}
    assert failed["adapter-03"].exit_code == 70
    assert "KeyError: 'made to fail'" in str(failed["adapter-03"])
    judge_one(items[3], terms, settings)
    assert "a bug of lora-cli: KeyError" in caplog.text


def test_a_base_is_a_folder_or_its_config(tmp_path: Path, settings: Settings) -> None:
    folder = write_base(tmp_path / "base")
    assert open_base(str(folder), settings).modules == open_base(str(folder / "config.json"), settings).modules
