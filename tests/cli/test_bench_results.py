"""What becomes of a result of ``serve-bench``: written, judged, and by its schema."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.bench.report import VLLM_KEYS
from lora_cli.cli.main import main
from tests.schemas import check_schema

SMALL = ["serve-bench", "--simulate", "--num-prompts", "1500", "--num-adapters", "60"]


def valid(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    check_schema(document)
    assert set(VLLM_KEYS) <= set(document)
    return document


@pytest.mark.parametrize("argv", [[], ["--request-rate", "20", "--burstiness", "inf", "--eviction", "lru"]])
def test_every_document_is_as_the_schema_says(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *argv, "--format", "json"]) == 0
    document = valid(capsys.readouterr().out)
    assert (document["backend"], document["mean_ttft_ms"]) == ("lora-cli simulation", None)


def test_a_run_that_fails_is_written_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conditions = ["--fail-if", "lfu.hit_ratio<0.99", "--fail-if", "lru.hit_ratio>0.99"]
    assert main([*SMALL, *conditions]) == 1
    out, err = capsys.readouterr()
    assert "failed  lfu.hit_ratio < 0.99 is true: the value is 0." in out
    assert "passed  lru.hit_ratio > 0.99 is not true: the value is " in out
    assert err.splitlines()[-1].startswith("failed: lfu.hit_ratio < 0.99")
    assert main([*SMALL, *conditions, "--format", "json", "-o", str(tmp_path / "run.json")]) == 1
    assert [one["failed"] for one in valid((tmp_path / "run.json").read_text())["fail_if"]] == [True, False]


def test_a_condition_that_nothing_was_measured_for_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--eviction", "lru", "--fail-if", "gap_closed<0.5"]) == 1
    out, err = capsys.readouterr()
    assert "failed  gap_closed < 0.5: there is no value" in out
    assert err.splitlines()[-1] == "failed: gap_closed < 0.5: there is no value"


def test_where_a_result_was_written_is_said_unless_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.txt"
    for more, said in (((), f"wrote {file}\n"), (("-q",), "")):
        assert main([*SMALL, "-o", str(file), *more]) == 0
        assert capsys.readouterr() == ("", said)
        assert file.read_text().startswith("policy ")


@pytest.mark.parametrize(
    ("argv", "message", "code"),
    [
        (["--fail-if", "lfu.hitratio<1"], "unknown metric lfu.hitratio", 2),
        (["--fail-if", "hit_ratio<1"], "unknown metric hit_ratio", 2),
        (["--fail-if", "p99<1"], "all are listed under metrics", 2),
        (["--fail-if", "lfu.hit_ratio<95"], 'lfu.hit_ratio is at most 1\nhint: --fail-if "lfu.hit_ratio<0.95"', 2),
        (["-o", "no/where.html"], "the folder does not exist", 6),
    ],
)
def test_what_is_wrong_is_said_before_the_run(
    argv: list[str], message: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, *argv]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("error: ")) == ("", 1)
