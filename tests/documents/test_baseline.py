import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.documents.baseline import Entry, load_baseline, render_baseline
from lora_cli.errors import DocumentError, UsageError

TEXT = st.text(st.characters(codec=None), max_size=20)
ONE = {"adapter": "a", "code": "LC504", "file": "", "field": "", "count": 1}


@given(st.lists(st.builds(Entry, TEXT, TEXT, TEXT, TEXT), max_size=6))
@settings(max_examples=40)
def test_what_is_written_is_read_and_does_not_depend_on_the_order(entries: list[Entry]) -> None:
    text = render_baseline(entries)

    assert text == render_baseline(reversed(entries))
    baseline = load_baseline(text, "b")
    for adapter in {one.adapter for one in entries}:
        assert baseline.of(adapter) == {one: entries.count(one) for one in entries if one.adapter == adapter}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"findings": []},
        {"schema": "lora_cli/baseline/2", "findings": []},
        {"schema": "lora_cli/validate/1", "findings": []},
        {"schema": "lora_cli/baseline/1"},
        *(
            {"schema": "lora_cli/baseline/1", "findings": [row]}
            for row in (1, {}, {**ONE, "count": 0}, {**ONE, "count": True}, {**ONE, "code": 5}, {**ONE, "x": 1})
        ),
    ],
)
def test_what_is_no_baseline_ends_with_2_and_says_how_one_is_made(document: object) -> None:
    with pytest.raises(UsageError, match=r"b\.json") as caught:
        load_baseline(json.dumps(document), "b.json")

    assert "--write-baseline" in caught.value.hint


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {"schema": "lora_cli/serve-bench/1", "metrics": {"a": 1}, "backend": "vllm"},
            "b: this is a JSON report of serve-bench, but must be a baseline of validate",
        ),
        (
            {"schema": "lora_cli/validate/1", "findings": [], "adapters": []},
            "b: this is a JSON report of validate, but must be a baseline of validate",
        ),
        (
            {"backend": "vllm", "mean_ttft_ms": 12.5},
            "b: this is not a baseline of validate: it has neither schema nor findings",
        ),
    ],
)
def test_another_file_is_one_error_that_says_what_it_is(document: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_baseline(json.dumps(document), "b")
    assert caught.value.message == said
    assert "--write-baseline" in caught.value.hint


def test_every_mistake_of_a_baseline_has_its_line() -> None:
    rows = [{**ONE, "cod": 1}, {**ONE, "count": 0}, {**ONE, "code": 5, "file": "\ud800"}]
    with pytest.raises(DocumentError) as caught:
        load_baseline(
            '{"schema": "lora_cli/baseline/1", "findings": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}", "b"
        )

    assert [error.message for error in caught.value.mistakes] == [
        "b:2: findings[0].cod: unknown key",
        "b:3: findings[1].count: 0 is not a whole number from 1 to 1000000000000000",
        "b:4: findings[2].code: 5 is a number here",
    ]


@pytest.mark.parametrize("odd", [r"\\u0090", "\x7f", "\ufffe"])
def test_where_yaml_cannot_tell_the_line_the_mistake_is_told_without_it(odd: str) -> None:
    rows = json.dumps([{**ONE, "count": 0, "field": odd}], ensure_ascii=False)
    with pytest.raises(DocumentError) as caught:
        load_baseline(f'{{"schema": "lora_cli/baseline/1", "findings": {rows}}}', "b")
    assert caught.value.message.endswith("findings[0].count: 0 is not a whole number from 1 to 1000000000000000")
