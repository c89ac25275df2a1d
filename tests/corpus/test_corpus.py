"""The verdict is PEFT's: what it loads and answers right with is no error, whatever else it makes of it is one."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lora_cli.engines import choose_engine
from lora_cli.finding import Outcome, Severity
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms, open_base
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.corpus.bases import FAMILIES, Base, base_of, write_config
from tests.corpus.breaks import BREAKS
from tests.corpus.goods import NOT_FOR, OPTIONS
from tests.corpus.peft_judge import logits, quiet
from tests.real_engines.agreement import Seen, log_softmax, served
from tests.real_engines.bases import SERVED
from tests.real_engines.cases import NAMES, Case, Cases

BELOW = "the adapter in a folder below"
"""What is an adapter only to us: PEFT is given the folder around it."""

UNCHECKED = frozenset(
    {
        *("BD-LoRA", "BD-LoRA in the config", "QALoRA in the config"),
        *("blocks of nothing", "layers twice", "replication in the config"),
    }
)
"""Variants that no engine serves, and whose shapes are not checked: what PEFT does with them is not said."""

ERRORS_ALL_THE_SAME = frozenset({"config with a key twice", "a broken pickle beside"})
"""Of two keys PEFT takes the last, other programs the first; a pickle is an error also where nothing loads it."""

QUICK = 3
"""One in so many is always tried; what each check says of each break is in ``tests/checks/cases`` too."""


def some() -> Iterator[Any]:
    """Each name on some bases, another choice for each: every third on its first always, all in the long run."""
    for number, name in enumerate(name for name in dict.fromkeys(NAMES) if name != BELOW):
        is_wide = name in OPTIONS or name in BREAKS
        families: Sequence[str] = [one for one in FAMILIES if one not in NOT_FOR.get(name, ())]
        bases = [*map(base_of, families)] if is_wide else [*SERVED.values()]
        each = 3 if name in BREAKS else 6
        for step, base in enumerate(dict.fromkeys(bases[(number + step * 7) % len(bases)] for step in range(each))):
            marks = [pytest.mark.slow] * (step > 0 or number % QUICK != 0 or not is_wide)
            yield pytest.param(base, name, id=f"{name}-{base.family}", marks=marks)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Base], Cases]:
    """The cases of each base, made once."""
    return functools.cache(lambda base: Cases(base, tmp_path_factory.mktemp(base.family)))


@pytest.mark.parametrize(("base", "name"), list(some()))
def test_it_is_an_error_exactly_when_peft_does_not_answer_right(
    base: Base, name: str, cases: Callable[[Base], Cases], tmp_path: Path
) -> None:
    case, settings = cases(base)[name], Settings(cache_dir=tmp_path / "cache")
    seen = observed(case)
    model = open_base(str(write_config(base, tmp_path / "base")), settings)
    verdict = judge_one(Request("", str(case.directory)), Terms(settings, model, engines=(choose_engine("peft"),)))

    assert verdict.error is None
    errors = [found.problem.message for found in verdict.findings if found.severity is Severity.ERROR]
    told = f"PEFT: {seen}; validate: {verdict.engines[0].outcome}, {errors}"
    assert verdict.engines[0].outcome in {seen.observed, *([Outcome.UNKNOWN] if name in UNCHECKED else [])}, told
    assert (not errors) == (verdict.engines[0].outcome <= Outcome.UNKNOWN) or name in ERRORS_ALL_THE_SAME, told


def observed(case: Case) -> Seen:
    """What PEFT makes of it on a fresh model."""
    from peft import PeftModel

    with quiet():
        outcome = Outcome.REJECTS
        try:
            model = PeftModel.from_pretrained(case.base.model(), str(case.directory)).eval()
            outcome = Outcome.CRASHES
            answered = log_softmax(logits(model).numpy())
        except Exception as error:
            return Seen(case.name, outcome, f"{type(error).__name__}: {error}"[:600])
        intended = None if case.intended is None else log_softmax(case.intended.numpy())
        return served(case.name, answered, intended)
