"""Every check, on adapters that are wrong in one way each: the cases are data, in ``cases``.

``expect`` of a case has the codes of all that is found; those in ``cases/serving`` are judged on every profile, and
``engines`` maps an engine (with its version where they differ) to ``OUTCOME CODE…``, all codes with an effect there. An
engine that is not named serves the adapter right, or the case does not say (``others: any``).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.checks import CHECKS
from lora_cli.engines import all_profiles, choose_engine
from lora_cli.finding import Deployment, EngineOutcome, Outcome, Severity
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, evidence_of, judge, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.reference import parse
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.sources.files import files_at
from tests.checks.made import all_cases, base_directory, made

PROFILES = [f"{profile.engine.name}@{profile.version}" for profile in all_profiles()]
CASES, SERVING = list(all_cases("rules")), list(all_cases("engines"))
Results = Mapping[str, Result]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every case, judged once; those of ``serving`` on every profile."""
    own = {case["case"]: judged(case, tmp_path_factory.mktemp("case")) for case in CASES}
    return own | {one["case"]: judged({**one, "engine": PROFILES}, tmp_path_factory.mktemp("case")) for one in SERVING}


def judged(case: Mapping[str, Any], tmp_path: Path) -> Result:
    directory = tmp_path / "adapter"
    made(case, directory)
    settings = Settings(cache_dir=tmp_path / "cache")
    base = None
    if case.get("base") != "none":
        written = base_directory(case, tmp_path / "base")
        base = replace(open_base(str(written), settings), **case.get("family", {}))
    deployment = Deployment(**{"max_lora_rank": case.get("max_lora_rank"), **case.get("deployment", {})})
    terms = Terms(
        base,
        values=case.get("values", True),
        rules=CHECKS,
        engines=tuple(choose_engine(word) for word in case.get("engine", ())),
        deployment=replace(deployment, lora_target_modules=tuple(deployment.lora_target_modules or ()) or None),
    )
    result = judge_one(Request("", str(directory)), terms, settings)
    if "ref" in case:  # as if that had been asked for
        assert result.adapter is not None
        evidence = evidence_of(result.adapter, files_at(directory), terms)
        judge(result, terms, replace(evidence, ref=parse(case["ref"], is_path=lambda _: False)))
    assert result.error is None
    return result


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_the_checks_find_what_the_case_expects(case: Mapping[str, Any], results: Results) -> None:
    result = results[case["case"]]

    assert sorted(found.code for found in result.findings) == sorted(case.get("expect", ()))
    assert case.get("applied") in {None, str(result.applied)}
    assert case.get("says", "") in "; ".join(found.problem.message for found in result.findings)
    assert case.get("hint", "") in "; ".join(found.problem.hint for found in result.findings)
    assert set(case.get("skipped", ())) <= {one.code for one in result.skipped}


@pytest.mark.parametrize("case", SERVING, ids=lambda case: case["case"])
def test_each_engine_does_what_the_case_says(case: Mapping[str, Any], results: Results) -> None:
    result, expected = results[case["case"]], case.get("engines", {})
    usual = "unknown" if case.get("base") == "none" else "ok"
    for one in result.engines:
        wanted = expected.get(one.asked, expected.get(one.engine))
        if wanted is not None or case.get("others") != "any":
            assert summary(result, one) == (wanted or usual), one
        assert case.get("counts", {}).get(one.asked, str(one.applied)) == str(one.applied)
    assert case.get("says", "") in "; ".join(one.note for one in result.engines)


def summary(result: Result, engine: EngineOutcome) -> str:
    """The outcome, and the codes of what leads to it: ``rejects LC420``."""
    codes = {one.code for one in result.findings if one.effects.get(engine.asked, Outcome.OK) > Outcome.UNKNOWN}
    return " ".join([str(engine.outcome), *sorted(codes)])


def test_each_check_finds_something_in_a_case_and_nothing_in_another(results: Results) -> None:
    found = [{one.code for one in result.findings} for result in results.values()]
    silent = [
        {check.code for check in CHECKS} - codes - {one.code for one in result.skipped}
        for codes, result in zip(found, results.values(), strict=True)
    ]
    assert set().union(*found) == set().union(*silent) == {check.code for check in CHECKS}


def test_each_effect_of_what_only_engines_mind_has_a_case(results: Results) -> None:
    seen = {(one.code, name) for result in results.values() for one in result.findings for name in one.effects}
    declared = {
        (check.code, f"{profile.engine.name}@{profile.version}")
        for check in CHECKS
        for profile in all_profiles()
        if check.floor is None and check.code != "LC405" and check.effects[profile.engine.name]
    }
    assert declared - seen == set()


def test_each_finding_says_what_where_what_to_do_and_what_each_engine_does(results: Results) -> None:
    for case, result in results.items():
        for found in result.findings:
            assert found.problem.message, case
            assert found.problem.at.file, case
            assert found.problem.hint, case
            assert "{" not in found.problem.hint, case
            minding = [one for one in result.engines if found.effects.get(one.asked, Outcome.OK) > Outcome.UNKNOWN]
            does = "; ".join(f"{one} {found.effects[one.asked].phrase}" for one in minding)
            assert found.problem.message.endswith(does), case


def test_an_outcome_is_the_worst_effect_and_none_is_ok_where_nothing_applies(results: Results) -> None:
    for result in results.values():
        for one in result.engines:
            worst = max((found.effects.get(one.asked, Outcome.OK) for found in result.findings), default=Outcome.OK)
            assert one.outcome is worst or (one.outcome is Outcome.UNKNOWN and one.note)
            assert one.outcome or one.applied is None or one.applied.matched or not one.applied.total


def test_an_error_is_what_an_engine_that_was_asked_for_does_not_serve_right(results: Results) -> None:
    always = {check.code for check in CHECKS if check.floor is Severity.ERROR}
    for result in results.values():
        for found in result.findings if result.engines else ():
            is_error = found.code in always or max(found.effects.values(), default=Outcome.OK) > Outcome.UNKNOWN
            assert (found.severity is Severity.ERROR) == is_error
