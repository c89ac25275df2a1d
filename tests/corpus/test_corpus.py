"""The verdict is PEFT's: what it loads and answers right with is no error, whatever else it makes of it is one."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.engines import choose_engine
from lora_cli.finding import Outcome as EngineOutcome
from lora_cli.finding import Severity
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms, open_base
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.corpus.bases import FAMILIES, base_of, write_config
from tests.corpus.breaks import BREAKS
from tests.corpus.goods import NOT_FOR, OPTIONS, options
from tests.corpus.peft_judge import Outcome, judge, write_adapter

EXCEPTIONS: Mapping[str, str] = {
    "blocks of nothing": "no engine serves BD-LoRA: its shapes are not checked",
    "biases on B without tensors": "PEFT starts them at zero, where a trained one is missing",
    "config with a key twice": "PEFT takes the last of the two, other programs the first",
    "a tensor that nobody knows": "PEFT drops it silently, so that a part of the file is not loaded",
}
"""Breaks whose verdict is not PEFT's, and why that is right."""

AS_ENGINE = {
    Outcome.REFUSED: EngineOutcome.REJECTS,
    Outcome.NOTHING: EngineOutcome.SERVES_WRONG,
    Outcome.WRONG: EngineOutcome.SERVES_WRONG,
    Outcome.RIGHT: EngineOutcome.OK,
}
"""What the outcome on the engine ``peft`` must be."""

QUICK = 3
"""One in so many is always tried; what each rule says of each break is in ``tests/checks/cases`` too."""

UNCHECKED = frozenset({"BD-LoRA", "layers twice"})
GOOD = [(family, option) for option in OPTIONS for family in FAMILIES if family not in NOT_FOR.get(option, ())]
BROKEN = [(family, name) for name in BREAKS for family in FAMILIES]


def some(pairs: list[tuple[str, str]], each: int) -> list[Any]:
    """Each name on ``each`` families, another choice for each: every third on its first always, all in the long run."""
    chosen = []
    for number, name in enumerate(dict.fromkeys(name for _, name in pairs)):
        families = [family for family, other in pairs if other == name]
        spread = dict.fromkeys(families[(number + step * 7) % len(families)] for step in range(each))
        for step, family in enumerate(spread):
            marks = [pytest.mark.slow] * (step > 0 or number % QUICK != 0)
            chosen.append(pytest.param(family, name, id=f"{name}-{family}", marks=marks))
    return chosen


def judged(family: str, directory: Path, tmp_path: Path) -> Result:
    """The verdict, on the engine ``peft`` too."""
    settings = Settings(cache_dir=tmp_path / "cache")
    base = open_base(str(write_config(base_of(family), tmp_path / "base")), settings)
    checked = judge_one(Request("", str(directory)), Terms(settings, base, engines=(choose_engine("peft"),)))
    assert checked.error is None
    assert checked.error is None
    return checked


def errors(verdict: Result) -> list[str]:
    """What is said to be wrong with it, errors only."""
    return [f"{one.code} {one.problem.message}" for one in verdict.findings if one.severity is Severity.ERROR]


@pytest.mark.parametrize(("family", "option"), some(GOOD, 6))
def test_what_peft_wrote_and_answers_right_with_is_no_error(family: str, option: str, tmp_path: Path) -> None:
    base = base_of(family)
    intended = write_adapter(base, options(base, OPTIONS[option]), tmp_path / "adapter")

    assert judge(base, tmp_path / "adapter", intended) is Outcome.RIGHT
    verdict = judged(family, tmp_path / "adapter", tmp_path)
    assert errors(verdict) == []
    # Shapes of a variant that no engine serves are not checked.
    assert verdict.engines[0].outcome is (EngineOutcome.UNKNOWN if option in UNCHECKED else EngineOutcome.OK)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A plain adapter of each family, made once: family to (folder, intended answers)."""
    made: dict[str, tuple[Path, Any]] = {}

    def of(family: str) -> tuple[Path, Any]:
        if family not in made:
            directory = tmp_path_factory.mktemp(family) / "adapter"
            made[family] = directory, write_adapter(base_of(family), options(base_of(family), {}), directory)
        return made[family]

    return of


@pytest.mark.parametrize(("family", "name"), some(BROKEN, 3))
def test_a_broken_one_is_an_error_exactly_when_peft_does_not_answer_right(
    family: str, name: str, good: Any, tmp_path: Path
) -> None:
    whole, intended = good(family)
    shutil.copytree(whole, tmp_path / "adapter")
    BREAKS[name](tmp_path / "adapter")

    outcome = judge(base_of(family), tmp_path / "adapter", intended)
    verdict = judged(family, tmp_path / "adapter", tmp_path)
    said = errors(verdict)

    assert (said == []) == (outcome is Outcome.RIGHT) or name in EXCEPTIONS, f"PEFT: {outcome.value}; validate: {said}"
    served = verdict.engines[0].outcome
    assert served is AS_ENGINE[outcome] or name in EXCEPTIONS, f"PEFT: {outcome.value}; --engine peft: {served}"


def test_the_exceptions_are_few_and_of_breaks_that_there_are() -> None:
    assert len(EXCEPTIONS) <= 10
    assert EXCEPTIONS.keys() <= BREAKS.keys()
    assert len(some(GOOD, 6)) >= 100
    assert len(some(BROKEN, 3)) >= 150
