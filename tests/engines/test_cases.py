"""What each engine does with adapters that have one feature each: the cases are data, in ``cases/*.yaml``.

``engines`` of a case maps an engine (with its version where they differ) to ``OUTCOME FEATURE…``; an engine that is not
named there serves the adapter right, or the case does not say (``others: any``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.engines import ENGINES, profiles_of
from lora_cli.finding import EngineOutcome, Outcome, Severity
from lora_cli.judging.result import Result
from tests.rule_cases import all_cases
from tests.rules.test_cases import judged

PROFILES = [f"{engine.name}@{profile.version}" for engine in ENGINES.values() for profile in profiles_of(engine)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, EngineOutcome]]:
    """Every case on every profile, judged once: case to ``engine@version`` to outcome."""
    found = {}
    for case in all_cases("engines"):
        asked = {key: value for key, value in case.items() if key not in {"engines", "others", "counts"}}
        checked = judged(asked | {"engine": PROFILES}, tmp_path_factory.mktemp("case"))
        assert checked.error is None, case["case"]
        found[case["case"]] = by_profile(checked)
    return found


def by_profile(checked: Result) -> dict[str, EngineOutcome]:
    assert checked.error is None
    return {f"{one.engine}@{one.profile}": one for one in checked.engines}


@pytest.mark.parametrize("case", list(all_cases("engines")), ids=lambda case: case["case"])
def test_each_engine_does_what_the_case_says(
    case: Mapping[str, Any], outcomes: Mapping[str, Mapping[str, EngineOutcome]]
) -> None:
    expected, usual = case.get("engines", {}), "unknown" if case.get("base") == "none" else "ok"
    said = {name: summary(one) for name, one in outcomes[case["case"]].items()}

    for name, summarised in said.items():
        wanted = expected.get(name, expected.get(name.partition("@")[0], usual))
        if wanted == usual and case.get("others") == "any" and name.partition("@")[0] not in expected:
            continue
        assert summarised == wanted or (wanted != usual and within(wanted, summarised)), (name, summarised)
    for name, counted in case.get("counts", {}).items():
        assert str(outcomes[case["case"]][name].applied) == counted, name


def summary(one: EngineOutcome) -> str:
    """Outcome and features: ``rejects dora``."""
    features = dict.fromkeys(reason.feature for reason in one.reasons)
    return " ".join([str(one.outcome), *features])


def within(wanted: str, said: str) -> bool:
    """Whether the outcome is the one that is wanted, and its features are among those that were found."""
    outcome, *features = wanted.split()
    return outcome == said.split(maxsplit=1)[0] and set(features) <= set(said.split()[1:])


def test_each_row_of_each_engine_has_a_case(outcomes: Mapping[str, Mapping[str, EngineOutcome]]) -> None:
    seen = {
        (one.engine, one.profile, reason.feature, reason.outcome)
        for by_name in outcomes.values()
        for one in by_name.values()
        for reason in one.reasons
    }
    rows = {
        (engine.name, profile.version, row.feature, row.outcome)
        for engine in ENGINES.values()
        for profile in profiles_of(engine)
        for row in profile.rows
    }

    assert rows - seen == set()


def test_an_engine_that_does_not_serve_right_says_why(outcomes: Mapping[str, Mapping[str, EngineOutcome]]) -> None:
    for by_name in outcomes.values():
        for one in by_name.values():
            assert bool(one.reasons) == one.fails
            for reason in one.reasons:
                assert reason.message
                assert "{" not in reason.mend


def test_an_engine_to_which_no_module_applies_does_not_serve_right(
    outcomes: Mapping[str, Mapping[str, EngineOutcome]],
) -> None:
    without = [
        one
        for by_name in outcomes.values()
        for one in by_name.values()
        if one.applied is not None and one.applied.matched == 0 < one.applied.total
    ]

    assert without
    assert [one for one in without if one.outcome is Outcome.OK] == []


def test_an_update_that_is_too_small_is_an_error_of_the_adapter_and_not_of_an_engine(tmp_path: Path) -> None:
    case = {"case": "small", "adapter": {"modules": "all", "r": 8}, "fill": {"lora_A": 1e-3, "lora_B": 1e-3}}
    verdict = judged({**case, "engine": PROFILES}, tmp_path)
    assert verdict.error is None

    assert {str(one.outcome) for one in verdict.engines} == {"ok"}
    assert [(one.code, one.severity) for one in verdict.findings] == [("LC505", Severity.ERROR)]
