from pathlib import Path

import pytest

from lora_cli.documents.policy import Suppression, load_policy
from lora_cli.errors import UsageError

DIGEST = "ab" * 32
HEAD = "apiVersion: lora-cli/v1\nkind: Policy\nsuppressions:\n"
ONE = f"  - digest: {DIGEST}\n    rule: LC504\n    reason: meant so\n"


def test_a_suppression_is_read_with_its_line() -> None:
    text = (
        HEAD
        + ONE
        + f"  - {{digest: {DIGEST}, rule: huge-update, until: 2027-03-31, reason: 'in\n\n      two lines'}}\n"
    )

    assert load_policy(text, "p.yaml", base_dir=Path("/")).suppressions == (
        Suppression(digest=DIGEST, rule="LC504", reason="meant so").placed("p.yaml:4"),
        Suppression(digest=DIGEST, rule="huge-update", reason="in two lines", until="2027-03-31").placed("p.yaml:7"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  - {rule: LC504}\n  - {rule: LC504}\n", "p.yaml:4: suppressions[0]: the key digest is missing (and 3 more)"),
        (ONE + ONE, "p.yaml:7: suppressions[1]: LC504 is suppressed twice for that digest (first at p.yaml:4)"),
        (ONE.replace(DIGEST, "abc"), "p.yaml:4: suppressions[0].digest: 'abc' is not a snapshot digest"),
        (ONE.replace("LC504", "LC5"), "suppressions[0].rule: 'LC5' is not a rule"),
        (ONE.replace("meant so", "' '"), "suppressions[0].reason: ' ' is not a reason in words"),
        (ONE + "    until: soon\n", "suppressions[0].until: 'soon' is not a day"),
        (ONE + "    untl: 2027-03-31\n", "p.yaml:7: suppressions[0].untl: unknown key"),
        (ONE.replace("    reason: meant so\n", ""), "suppressions[0]: the key reason is missing"),
    ],
)
def test_what_is_wrong_names_line_and_key(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_policy(HEAD + text, "p.yaml")

    assert said in caught.value.message
    assert caught.value.hint


def test_it_holds_on_its_last_day_and_for_its_rule_only() -> None:
    one = Suppression(digest=DIGEST, rule="LC504", reason="meant so", until="2027-03-31")

    assert [one.expired(day) for day in ("2026-12-31", "2027-03-31", "2027-04-01")] == [False, False, True]
    assert not Suppression(digest=DIGEST, rule="LC504", reason="meant so").expired("9999-12-31")
    assert one.covers("LC504", "huge-update")
    assert not one.covers("LC505", "negligible-update")
