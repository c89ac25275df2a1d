"""The checks as a list: codes, documentation, and how a command line picks some of them."""

import re

import pytest

from lora_cli.checks import CHECKS, choose, find
from lora_cli.checks.check import Check
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
