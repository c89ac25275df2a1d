"""Which profile a name and a version mean, and the profiles as data."""

import pytest
from lora_cli.rules import RULES
from lora_cli.rules.features import FEATURES

from lora_cli.engines import ENGINES, all_profiles, choose_engine
from lora_cli.engines.profile import ENGINE_INDEPENDENT, GENERIC_OUTCOMES, NAME_RULES, as_version
from lora_cli.errors import UsageError
from lora_cli.finding import Outcome, Severity

NEWEST = ENGINES["vllm"].versions[-1]


@pytest.mark.parametrize(
    ("text", "version", "note", "proven"),
    [
        ("vllm", NEWEST, "", True),
        ("vllm@0.32", "0.32", "", True),
        ("vllm@0.32.1", "0.32", "", True),
        ("vLLM@v0.31.0rc1+cu129", "0.31", "", True),
        ("vllm@0.40", NEWEST, f"newer than the newest profile: validated as {NEWEST}", True),
        ("vllm@1", NEWEST, f"newer than the newest profile: validated as {NEWEST}", True),
        ("vllm@0.11.2", "0.31", "older than the oldest profile (0.31), which is used instead and may differ", False),
        ("sglang@0.5.23", "0.5.23", "", True),
        (
            "sglang@0.5.9",
            "0.5.23",
            "older than the oldest profile (0.5.23), which is used instead and may differ",
            False,
        ),
        ("peft@0.21.2", "0.21", "", True),
    ],
)
def test_a_version_means_a_profile(text: str, version: str, note: str, proven: bool) -> None:
    profile = choose_engine(text)

    assert (profile.version, profile.note, profile.proven) == (version, note, proven)


def test_a_version_between_two_profiles_is_judged_by_the_older(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    gap = replace(ENGINES["vllm"], versions=("0.31", "0.33"))
    monkeypatch.setattr("lora_cli.engines.ENGINES", {"vllm": gap})

    profile = choose_engine("vllm@0.32.2")

    assert (profile.version, profile.note) == ("0.31", "between two profiles: validated as 0.31")


@pytest.mark.parametrize(
    ("text", "hint"),
    [("vlm", "did you mean vllm?"), ("vllm==0.33", "did you mean vllm@0.33?"), ("x", "known: peft"), ("", "known")],
)
def test_an_unknown_engine_is_an_error_with_the_nearest_name(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="unknown engine") as caught:
        choose_engine(text)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("text", ["vllm@", "vllm@latest", "vllm@x0.3"])
def test_a_version_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a version of vLLM") as caught:
        choose_engine(text)
    assert caught.value.hint == f"for example vllm@{NEWEST}"


def test_each_row_names_a_feature_and_its_evidence() -> None:
    for engine in ENGINES.values():
        versions = list(map(as_version, engine.versions))
        assert versions == sorted(versions)
        assert all(as_version(since) in versions for since in engine.grammars)
        assert engine.unknown <= FEATURES.keys()
        for row in engine.rows:
            assert row.feature in FEATURES
            assert row.outcome is not Outcome.OK
            assert row.evidence
            assert row.since in {"", *engine.versions}
            assert row.until in {"", *engine.versions}


def test_no_profile_has_two_rows_for_a_feature() -> None:
    for profile in all_profiles():
        features = [row.feature for row in profile.rows]
        assert len(set(features)) == len(features), profile.title


def test_each_feature_is_in_some_row() -> None:
    known = {row.feature for engine in ENGINES.values() for row in engine.rows}
    assert known | {name for engine in ENGINES.values() for name in engine.unknown} == FEATURES.keys()
    assert {name for feature in FEATURES.values() for name in feature.along} <= FEATURES.keys()


def test_each_error_without_an_engine_leads_to_an_outcome_on_every_engine() -> None:
    errors = {rule.code for rule in RULES if rule.severity is Severity.ERROR and not rule.code.startswith("LC4")}

    assert errors == GENERIC_OUTCOMES.keys() | ENGINE_INDEPENDENT
    assert GENERIC_OUTCOMES.keys() >= NAME_RULES
    assert all(engine.generic.keys() == GENERIC_OUTCOMES.keys() for engine in ENGINES.values())
