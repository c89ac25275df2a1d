"""Every rule, on adapters that are wrong in one way each: the cases are data, in ``cases/*.yaml``."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lora_cli.rules import RULES

from lora_cli.engines import choose_engine
from lora_cli.finding import Deployment
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, companions_of, evidence_of, judge, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.reference import parse
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.sources.files import files_at
from tests.rule_cases import all_cases, base_directory, made


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Result]:
    """Every case, judged once."""
    return {case["case"]: judged(case, tmp_path_factory.mktemp("case")) for case in all_cases("rules")}


@pytest.mark.parametrize("case", list(all_cases("rules")), ids=lambda case: case["case"])
def test_the_rules_say_what_the_case_expects(case: Mapping[str, Any], verdicts: Mapping[str, Result]) -> None:
    checked = verdicts[case["case"]]

    assert checked.error is None
    assert checked.error is None
    assert {found.code for found in checked.findings} == set(case["expect"])
    assert case.get("applied") in {None, str(checked.applied)}
    assert case.get("says", "") in "; ".join(found.problem.message for found in checked.findings)
    assert set(case.get("skipped", ())) <= {one.code for one in checked.skipped}


def test_a_class_for_images_is_rejected_once(verdicts: Mapping[str, Result]) -> None:
    verdict = verdicts["an adapter of a class for images, without a base, is rejected for one reason"]
    assert verdict.error is None
    assert [one.code for one in verdict.findings].count("LC402") == 1


def test_each_rule_fires_in_a_case_and_looks_without_finding_in_another(verdicts: Mapping[str, Result]) -> None:
    fired, silent = set(), set()
    for checked in verdicts.values():
        assert checked.error is None
        found = {one.code for one in checked.findings}
        fired |= found
        silent |= {rule.code for rule in RULES} - found - {one.code for one in checked.skipped}

    assert fired == silent == {rule.code for rule in RULES}


def test_each_problem_says_what_where_and_what_to_do(verdicts: Mapping[str, Result]) -> None:
    for case, checked in verdicts.items():
        assert checked.error is None
        for found in checked.findings:
            assert found.problem.message, case
            assert found.problem.at.file, case
            assert found.problem.hint, case


@pytest.mark.parametrize(
    ("case", "hint"),
    [
        ("an adapter of another family", "the base has modules like model.embed_tokens"),
        ("the bare class's names without the task", "this base calls the module model.layers.0.self_attn.q_proj"),
        ("an adapter whose layers are all beyond the base", "the base has modules like model.embed_tokens"),
        ("an expert's w1 without its w3", "its experts do not fit the base's fused experts, see LC317"),
    ],
)
def test_the_hint_for_an_adapter_that_changes_nothing_is_about_what_it_has(
    case: str, hint: str, verdicts: Mapping[str, Result]
) -> None:
    verdict = verdicts[case]
    assert verdict.error is None
    assert hint in next(found.problem.hint for found in verdict.findings if found.code == "LC311")


def judged(case: Mapping[str, Any], tmp_path: Path) -> Result:
    directory = tmp_path / "adapter"
    made(case, directory)
    family = case.get("base", "llama")
    settings = Settings(cache_dir=tmp_path / "cache")
    base = None if family == "none" else open_base(str(base_directory(case, tmp_path / "base")), settings)
    engines = tuple(choose_engine(word) for word in case.get("engine", ()))
    deployment = Deployment(**{"max_lora_rank": case.get("max_lora_rank"), **case.get("deployment", {})})
    terms = Terms(
        base,
        values=case.get("values", True),
        rules=RULES,
        engines=engines,
        deployment=replace(deployment, lora_target_modules=tuple(deployment.lora_target_modules or ()) or None),
    )
    checked = judge_one(Request("", str(directory)), terms, settings)
    if "ref" in case:  # as if that had been asked for
        files = files_at(directory)
        evidence = evidence_of(checked, files, terms, companions_of(files, terms))
        judge(checked, terms, replace(evidence, ref=parse(case["ref"], is_path=lambda _: False)))
    return checked


def test_an_adapter_like_the_last_one_is_told_the_same_and_one_that_differs_is_not(tmp_path: Path) -> None:
    terms, settings = Terms(), Settings(cache_dir=tmp_path / "cache")
    texts = []
    for name, config in (("one", {"r": 8}), ("two", {"r": 8}), ("three", {}), ("four", {"r": 8})):
        made({"case": name, "config": config}, tmp_path / name)
        verdict = judge_one(Request("", str(tmp_path / name)), terms, settings)
        assert verdict.error is None
        texts.append([(one.code, one.problem) for one in verdict.findings])
    assert texts[0] == texts[1] == texts[3] != texts[2]
    assert "LC301" in {code for code, _ in texts[0]}
