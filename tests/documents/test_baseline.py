import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.documents.baseline import AcceptedFinding, load_baseline, render_baseline
from lora_cli.errors import UsageError

SCHEMA = "lora_cli/baseline/2"
ONE = {"fingerprint": "0f" * 16, "code": "LC504", "reason": "meant so"}
FINDINGS = st.builds(
    AcceptedFinding,
    fingerprint=st.binary(min_size=16, max_size=16).map(bytes.hex),
    code=st.integers(100, 999).map("LC{}".format),
    reason=st.text(min_size=1, max_size=20).map("a{}".format),
    until=st.none() | st.just("2027-03-31"),
)


@given(st.dictionaries(st.integers(), FINDINGS, max_size=6))
@settings(max_examples=40)
def test_what_is_written_is_read_and_does_not_depend_on_the_order(made: dict[int, AcceptedFinding]) -> None:
    findings = {one.fingerprint: one for one in made.values()}
    text = render_baseline(findings)
    assert text == render_baseline(dict(reversed(findings.items())))
    assert load_baseline(text, "b") == findings


@pytest.mark.parametrize(
    ("schema", "row", "said"),
    [
        ("lora_cli/baseline/1", {}, f"schema: input should be '{SCHEMA}'"),
        (SCHEMA, {"fingerprint": "ab"}, "findings[0].fingerprint: string should match"),
        (SCHEMA, {"until": "tomorrow"}, "findings[0].until: string should match"),
    ],
)
def test_what_is_no_baseline_is_told(schema: str, row: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_baseline(json.dumps({"schema": schema, "findings": [{**ONE, **row}]}), "b.json")
    assert caught.value.message.startswith(f"b.json:1: {said}")
    assert schema == SCHEMA or "--write-baseline" in caught.value.hint
