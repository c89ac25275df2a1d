"""The checks and engines as lists: codes, documentation, and what a command line means by a word."""

import re
from dataclasses import replace

import pytest

from lora_cli.base.families import FAMILIES
from lora_cli.checks import CHECKS, choose, find
from lora_cli.checks.check import Check
from lora_cli.engines import BUILT, ENGINES, IA3_FAMILIES, choose_engine
from lora_cli.engines.vllm import EMBEDDINGS, LISTED, NO_LORA
from lora_cli.errors import UsageError


def test_codes_and_names_are_unique_and_in_order() -> None:
    codes = [rule.code for rule in CHECKS]

    assert codes == sorted(set(codes))
    assert len({rule.name for rule in CHECKS}) == len(CHECKS)
    assert all(re.fullmatch(r"LC\d{3}", code) for code in codes)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.code)
def test_each_check_says_what_it_finds_and_what_mends_it(check: Check) -> None:
    assert check.summary.endswith(".")
    assert set(check.evidence) <= {"peft", "vllm", "sglang"} == set(check.effects)
    if check.floor is None and check.code != "LC405":  # what only an engine does was read somewhere
        assert {name for name, effect in check.effects.items() if effect} - {"peft"} <= set(check.evidence) | {"sglang"}


def test_a_selector_is_a_code_its_beginning_or_a_name() -> None:
    assert [rule.code for rule in find("lc301")] == ["LC301"]
    assert [rule.code for rule in find("rank-mismatch")] == ["LC301"]
    assert {rule.code[:3] for rule in find("LC3")} == {"LC3"}


def test_selected_rules_keep_their_order_and_lose_the_ignored_ones() -> None:
    chosen = choose(["LC5,LC1"], ["LC102"])

    assert [rule.code for rule in chosen] == [
        rule.code for rule in CHECKS if rule.code[:3] in {"LC1", "LC5"} and rule.code != "LC102"
    ]


@pytest.mark.parametrize(("word", "hint"), [
    ("xyz", "lora-cli rules lists them all"), ("rank-mismatches", "did you mean rank-mismatch"),
    ("rank-mismtch", "did you mean rank-mismatch"), ("L C", ""),
])  # fmt: skip
def test_a_selector_that_means_nothing_is_an_error_with_a_hint(word: str, hint: str) -> None:
    with pytest.raises(UsageError, match="unknown rule") as caught:
        choose([word])
    assert caught.value.hint.startswith(hint)


NEWEST = ENGINES["vllm"].versions[-1]


@pytest.mark.parametrize(
    ("text", "version", "note", "proven"),
    [
        ("vllm", NEWEST, "", True),
        ("vllm@0.32.1", "0.32", "", True),
        ("vLLM@v0.32.0rc1+cu129", "0.32", "", True),
        ("vllm@0.40", NEWEST, f"newer than the newest profile: validated as {NEWEST}", True),
        ("vllm@0.31.1", "0.32", "older than the oldest profile (0.32), which is used instead and may differ", False),
        ("sglang@0.5.23", "0.5.23", "", True),
        ("peft@0.21.2", "0.21", "", True),
    ],
)
def test_a_version_means_a_profile(text: str, version: str, note: str, proven: bool) -> None:
    profile = choose_engine(text)

    assert (profile.version, profile.note, profile.proven) == (version, note, proven)


def test_a_version_between_two_profiles_is_judged_by_the_older(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = replace(ENGINES["vllm"], versions=("0.30", "0.33"))
    monkeypatch.setattr("lora_cli.engines.ENGINES", {"vllm": gap})

    profile = choose_engine("vllm@0.32.2")

    assert (profile.version, profile.note) == ("0.30", "between two profiles: validated as 0.30")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("vlm", "unknown engine", "did you mean vllm?"),
        ("vllm==0.33", "unknown engine", "did you mean vllm@0.33?"),
        ("x", "unknown engine", "known: peft"),
        ("vllm@", "is not a version of vLLM", f"for example vllm@{NEWEST}"),
        ("vllm@latest", "is not a version of vLLM", f"for example vllm@{NEWEST}"),
    ],
)
def test_what_is_no_engine_or_no_version_is_an_error_with_the_nearest(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        choose_engine(text)
    assert caught.value.hint.startswith(hint)


def test_no_family_is_listed_twice() -> None:
    assert LISTED & (FAMILIES.keys() | NO_LORA | EMBEDDINGS.keys()) == set()


def test_what_peft_builds_and_has_defaults_for_is_what_the_real_one_does() -> None:
    from peft import PeftType
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as DEFAULTS

    assert set(PeftType) >= BUILT
    assert {family for family in DEFAULTS if family[0].islower()} == IA3_FAMILIES
