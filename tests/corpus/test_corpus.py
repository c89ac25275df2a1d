"""The verdict is PEFT's: what it loads and answers right with is no error, whatever else it makes of it is one."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.check import Terms, check_in_place, open_base
from lora_cli.core.architectures import base_from_config
from lora_cli.core.engine_outcome import Outcome as EngineOutcome
from lora_cli.core.finding import Severity, Verdict
from lora_cli.engines import choose_engine
from lora_cli.settings import Settings
from tests.corpus.bases import FAMILIES, config_of, write_config
from tests.corpus.breaks import BREAKS
from tests.corpus.peft_judge import Outcome, judge, write_adapter

PLAIN: Mapping[str, Any] = {"r": 8, "lora_alpha": 12}

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True, "r": 6},
    "patterns": {"rank_pattern": {".*0.*": 2}, "alpha_pattern": {".*1.*": 5}},
    "one layer": {"layers_to_transform": [1]},
    "an exclusion": {"exclude_modules": r".*\.1\..*"},
    "all-linear": {"target_modules": "all-linear"},
    "a regular expression": {"target_modules": r".*\.\d+\..*(q_proj|c_attn|query_key_value|qkv_proj)"},
    "DoRA": {"use_dora": True},
    "biases on B": {"lora_bias": True},
    "biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "a saved head": {"modules_to_save": ["lm_head"]},
    "trained tokens": {"trainable_token_indices": [1, 5]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "a high rank": {"r": 64, "lora_alpha": 0.5},
    "dropout": {"lora_dropout": 0.1},
    "layers twice": {"layer_replication": [[0, 2], [0, 1]]},
}

NOT_FOR: Mapping[str, frozenset[str]] = {
    # PEFT stacks layers only where it knows the class's list of them, and not where layers differ in kind.
    "layers twice": frozenset({"gemma3_text", "falcon", "bloom", "gpt2", "gptj", "gpt_neox", "opt"}),
}

EXCEPTIONS: Mapping[str, str] = {
    "r missing": "PEFT takes 8 without a word, which here it happens to be; vLLM refuses it",
    "biases on B without tensors": "PEFT starts them at zero, where a trained one is missing",
    "config with a key twice": "PEFT takes the last of the two, other programs the first",
    "a tensor that nobody knows": "PEFT drops it without a word, so that a part of the file is not loaded",
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
"""One in so many is always tried; what each rule says of each break is in ``tests/rules/cases`` too."""

GOOD = [(family, option) for option in OPTIONS for family in FAMILIES if family not in NOT_FOR.get(option, ())]
BROKEN = [(family, name) for name in BREAKS for family in FAMILIES]


def some(pairs: list[tuple[str, str]], each: int) -> list[Any]:
    """Each name on ``each`` families, another choice for each: every third on its first always, all in the long run."""
    chosen = []
    for number, name in enumerate(dict.fromkeys(name for _, name in pairs)):
        families = [family for family, other in pairs if other == name]
        spread = dict.fromkeys(families[(number + step * 7) % len(families)] for step in range(each))
        for step, family in enumerate(spread):
            marks = [pytest.mark.long] * (step > 0 or number % QUICK != 0)
            chosen.append(pytest.param(family, name, id=f"{name}-{family}", marks=marks))
    return chosen


def targets(family: str) -> list[str]:
    """The last names of all linear modules in the layers of the base."""
    base = base_from_config(config_of(family), family)
    linear = [path for path, module in base.modules.items() if module.kind != "embedding" and "." in path]
    return sorted({path.rpartition(".")[2] for path in linear})


def options(family: str, option: str) -> dict[str, Any]:
    return {**PLAIN, "target_modules": targets(family), **OPTIONS[option]}


def judged(family: str, directory: Path, tmp_path: Path) -> Verdict:
    """The verdict, on the engine ``peft`` too."""
    settings = Settings(cache_dir=tmp_path / "cache")
    base = open_base(str(write_config(family, tmp_path / "base")), settings)
    checked = check_in_place(str(directory), Terms(base, engines=(choose_engine("peft"),)), settings)
    assert checked.error is None
    assert checked.verdict is not None
    return checked.verdict


def errors(verdict: Verdict) -> list[str]:
    """What is said to be wrong with it, errors only."""
    return [f"{one.code} {one.problem.message}" for one in verdict.findings if one.severity is Severity.ERROR]


@pytest.mark.parametrize(("family", "option"), some(GOOD, 6))
def test_what_peft_wrote_and_answers_right_with_is_no_error(family: str, option: str, tmp_path: Path) -> None:
    intended = write_adapter(family, options(family, option), tmp_path / "adapter")

    assert judge(family, tmp_path / "adapter", intended) is Outcome.RIGHT
    verdict = judged(family, tmp_path / "adapter", tmp_path)
    assert errors(verdict) == []
    assert verdict.engines[0].outcome is EngineOutcome.OK


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A plain adapter of each family, made once: family to (folder, intended answers)."""
    made: dict[str, tuple[Path, Any]] = {}

    def of(family: str) -> tuple[Path, Any]:
        if family not in made:
            directory = tmp_path_factory.mktemp(family) / "adapter"
            made[family] = directory, write_adapter(family, options(family, "plain"), directory)
        return made[family]

    return of


@pytest.mark.parametrize(("family", "name"), some(BROKEN, 3))
def test_a_broken_one_is_an_error_exactly_when_peft_does_not_answer_right(
    family: str, name: str, good: Any, tmp_path: Path
) -> None:
    whole, intended = good(family)
    shutil.copytree(whole, tmp_path / "adapter")
    BREAKS[name](tmp_path / "adapter")

    outcome = judge(family, tmp_path / "adapter", intended)
    verdict = judged(family, tmp_path / "adapter", tmp_path)
    said = errors(verdict)

    assert (said == []) == (outcome is Outcome.RIGHT) or name in EXCEPTIONS, f"PEFT: {outcome.value}; validate: {said}"
    wanted = AS_ENGINE[outcome]
    assert verdict.engines[0].outcome is wanted or name in EXCEPTIONS, f"PEFT: {outcome.value}; validate: {said}"


def test_the_exceptions_are_few_and_of_breaks_that_there_are() -> None:
    assert len(EXCEPTIONS) <= 10
    assert EXCEPTIONS.keys() <= BREAKS.keys()
    assert len(some(GOOD, 6)) >= 100
    assert len(some(BROKEN, 3)) >= 150
