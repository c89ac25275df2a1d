"""What becomes of a result of ``serve-bench``: saved, compared, judged, and by its schema."""

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lora_cli.bench.live.result import VLLM_MEASURES
from lora_cli.bench.report import KEYS, VLLM_KEYS
from lora_cli.cli.main import main
from lora_cli.runtime.messages import LoraRequest, ProbeResult
from lora_cli.runtime.warm_process import WarmProcess
from tests.making import llama_modules, write_adapter, write_base_config
from tests.schemas import check_schema

SMALL = ["serve-bench", "--simulate", "--num-prompts", "1500", "--num-adapters", "60", "--ranks", "8,64"]


def valid(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    check_schema(document)
    assert set(VLLM_KEYS) <= set(document)
    assert {key for key in document if not key.endswith(tuple(f"_{what}_ms" for what in VLLM_MEASURES))} <= KEYS | {
        "gpu"
    }
    return document


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--request-rate", "20", "--burstiness", "inf", "--eviction", "lfu"],
        ["--max-gpu-bytes", "1GiB", "--disk-link", "9"],
        ["--plan", "hit_ratio>=0.9"],
        ["--plan", "stall_p90_ms<20", "--eviction", "lru"],
    ],
)
def test_every_document_is_as_the_schema_says(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *argv, "--format", "json"]) == 0
    document = valid(capsys.readouterr().out)
    assert (document["backend"], document["mean_ttft_ms"]) == ("lora-cli simulation", None)


def test_a_result_is_kept_with_its_requests_under_the_names_of_vllm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--save-result", "--result-dir", str(tmp_path / "new" / "folder"), "--metadata", "gpu=H100"]
    assert main([*SMALL, *argv]) == 0
    result, trace = sorted((tmp_path / "new" / "folder").iterdir())
    document = valid(result.read_text())
    assert result.name == f"lora-cli-infqps-{document['date']}.json"
    assert (document["gpu"], document["trace"]) == ("H100", trace.name)
    assert len(trace.read_text().splitlines()) == 1_500
    assert f"saved {result} and {trace.name}" in capsys.readouterr().err

    assert main([*SMALL, *argv, "--result-filename", "run.json", "--format", "json"]) == 0
    printed = valid(capsys.readouterr().out)
    kept = valid((result.parent / "run.json").read_text())
    assert {**printed, "date": kept["date"], "trace": "run.trace.jsonl"} == kept


def test_a_run_that_fails_is_kept_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conditions = ["--fail-if", "lfu.hit_ratio<0.99", "--fail-if", "lru.stall_p99_ms>1e9"]
    saved = ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "run.json"]
    assert main([*SMALL, *conditions, *saved]) == 1
    out, err = capsys.readouterr()
    assert "failed  lfu.hit_ratio < 0.99 is true: the value is 0." in out
    assert "passed  lru.stall_p99_ms > 1e+09 is not true: the value is " in out
    assert err.splitlines()[-1].startswith("failed: lfu.hit_ratio < 0.99")
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


def test_an_older_result_is_told_beside_this_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.json"
    assert main([*SMALL, "--format", "json", "-o", str(old)]) == 0
    assert main([*SMALL, "--baseline", str(old)]) == 0
    assert "no metrics changed, " in capsys.readouterr().out
    assert main([*SMALL, "--max-loras", "16", "--baseline", str(old)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("lru.hit_ratio")]
    assert line.endswith("better")
    assert main([*SMALL, "--max-loras", "16", "--baseline", str(old), "--format", "json"]) == 0
    changes = {one["metric"]: one for one in valid(capsys.readouterr().out)["baseline"]}
    assert changes["lru.hit_ratio"]["verdict"] == "better"
    assert changes["lru.hit_ratio"]["now"] > changes["lru.hit_ratio"]["before"]


@pytest.mark.parametrize(
    ("argv", "differs"),
    [
        ([], {}),
        (["--max-loras", "16", "--eviction", "lru"], {}),
        (["--seed", "1"], {"seed": ("0", "1")}),
        (["--popularity", "uniform"], {"popularity": ("zipf:1.0", "uniform")}),
        (["--num-prompts", "900"], {"num_prompts": ("1500", "900")}),
        (["--num-adapters", "61"], {"adapters": ("60", "61")}),
        (["--request-rate", "20"], {"request_rate": ("inf", "20")}),
        (["--drift", "20,500"], {"drift": ("not set", "20,500")}),
        (["--output-len", "8-16"], {"output_len": ("16", "8-16")}),
    ],
)
def test_a_baseline_of_another_workload_is_said(
    argv: list[str], differs: dict[str, tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    assert main([*SMALL, "--format", "json", "-o", str(old)]) == 0
    capsys.readouterr()
    assert main([*SMALL, *argv, "--baseline", str(old), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    document = valid(out)
    assert {one["key"]: (one["before"], one["now"]) for one in document.get("baseline_differs", [])} == differs
    said = "; ".join(f"{key} was {before}, and is {now}" for key, (before, now) in differs.items())
    assert err == (f"warning: {old} has another workload: {said}\n" if differs else "")
    assert main(["-q", *SMALL, *argv, "--baseline", str(old)]) == 0
    assert capsys.readouterr().err == ""


def test_a_workload_is_the_same_when_its_requests_are_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, trace = str(tmp_path / "old.json"), tmp_path / "requests.jsonl"
    assert main([*SMALL, "--save-trace", str(trace), "--format", "json", "-o", old]) == 0
    replay = ["serve-bench", "--simulate", "--ranks", "8,64", "--baseline", old, "--trace"]
    capsys.readouterr()
    assert main([*replay, str(trace)]) == 0
    assert "workload" not in capsys.readouterr().err
    trace.write_text("".join(trace.read_text().splitlines(keepends=True)[:-1]))
    assert main([*replay, str(trace)]) == 0
    assert "has another workload: num_prompts was 1500, and is 1499\n" in capsys.readouterr().err


@pytest.mark.parametrize("workload", [None, [], {"\x1b[31m": [1], "popularity": {}}])
def test_a_strange_workload_of_a_baseline_moves_no_cursor(
    workload: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"metrics": {"a": 1}, "workload": workload, "num_prompts": True, "mode": "\x1b[2J"}))
    assert main([*SMALL, "--baseline", str(old)]) == 0
    err = capsys.readouterr().err
    assert "has another workload: mode was " in err
    assert "\x1b" not in err


def test_a_plan_says_what_it_takes_or_that_nothing_does(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*SMALL, "--plan", "hit_ratio>=0.9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("for hit_ratio >= 0.9\n\npolicy")
    assert main([*SMALL, "--plan", "hit_ratio>=0.99,stall_p99_ms<50", "--eviction", "lru"]) == 1
    assert "lru: not reached even with a slot for each of the 60 adapters: hit_ratio 0.96" in capsys.readouterr().out
    assert main([*SMALL, "--plan", "hit_ratio>=0.9", "--format", "html", "-o", str(tmp_path / "plan.html")]) == 0
    assert "<h1>Slots and memory for hit_ratio &gt;= 0.9</h1>" in (tmp_path / "plan.html").read_text()


def test_a_plan_of_stalls_says_that_nobody_queues_where_requests_have_no_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    goal = ["--plan", "stall_p99_ms<300", "--eviction", "lru"]
    warned = {}
    for more in ((), ("--request-rate", "20"), ("--quiet",)):
        assert main([*SMALL, *goal, *more]) == 0
        warned[more] = "warning: without --request-rate" in capsys.readouterr().err
    assert warned == {(): True, ("--request-rate", "20"): False, ("--quiet",): False}


@pytest.mark.parametrize(
    ("argv", "message", "code"),
    [
        (["--fail-if", "lfu.hitratio<1"], "unknown metric lfu.hitratio", 2),
        (["--fail-if", "hit_ratio<1"], "unknown metric hit_ratio", 2),
        (["--fail-if", "p99<1"], "opt.stalled_ratio; all are listed under metrics", 2),
        (
            ["--fail-if", "lfu.hit_ratio<95"],
            'lfu.hit_ratio is at most 1\nhint: --fail-if "lfu.hit_ratio<0.95"',
            2,
        ),
        (["--baseline", "none.json"], "--baseline none.json: not found", 3),
        (["--metadata", "H100"], "--metadata H100: must be KEY=VALUE", 2),
        (["--metadata", "policies=none"], "--metadata policies: the result already has that key", 2),
        (["-o", "no/where.html"], "the folder does not exist", 6),
        (["--save-result", "--result-dir", "file/x"], "--result-dir file/x cannot be created", 6),
        (["--result-dir", "x"], "--result-dir is for --save-result", 2),
        (["--plan", "hit_ratio>=0.9", "--max-loras", "8"], "--max-loras and --plan cannot be used together", 2),
        (["--plan", "hit_ratio>=0.9", "--eviction", "opt"], "--plan cannot use opt", 2),
        (["--plan", "hit_ratio<=0.9"], "more slots only make it worse", 2),
        (["--plan", "hit_ratio>=95"], 'hit_ratio is at most 1\nhint: --plan "hit_ratio>=0.95"', 2),
    ],
)
def test_what_is_wrong_is_said_before_the_run(
    argv: list[str], message: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert main([*SMALL, *argv]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("error: ")) == ("", 1)


@pytest.mark.slow
def test_a_measured_run_has_the_same_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_base_config(tmp_path / "base")
    for i in range(3):
        write_adapter(tmp_path / f"a{i}", modules=llama_modules(), seed=i)
    refs = [str(tmp_path / f"a{i}") for i in range(3)]
    argv = ["serve-bench", *refs, "--base", str(tmp_path / "base"), "--device", "cpu", "--max-loras", "1"]
    argv += ["--forward", "modules"]
    argv += ["--cache-dir", str(tmp_path / "cache"), "--num-prompts", "30", "--save-result", "--result-dir"]
    argv += [str(tmp_path / "out"), "--result-filename", "run.json", "--fail-if", "cold_ttft_p99_ms>1e-9"]
    assert main([*argv, "--format", "html", "-o", str(tmp_path / "run.html")]) == 1
    document = valid((tmp_path / "out" / "run.json").read_text())
    assert (document["mode"], document["completed"], document["failed"]) == ("in-process", 30, 0)
    assert document["metrics"]["cold_ttft_p99_ms"] > document["metrics"]["hot_ttft_p50_ms"] > 0
    assert document["mean_ttft_ms"] == document["mean_e2el_ms"]
    page = (tmp_path / "run.html").read_text()
    assert "30 requests over 3 adapters, in process" in page
    assert page.count("<polyline") == 3 or "warm" not in document["hits"]
    capsys.readouterr()

    again = ["serve-bench", "--simulate", "--trace", str(tmp_path / "out" / "run.trace.jsonl"), "--format", "json"]
    assert main([*again, "--max-loras", "1"]) == 0
    assert valid(capsys.readouterr().out)["adapters"] == 3


@pytest.mark.slow
def test_what_was_measured_until_an_interrupt_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "a", modules=llama_modules())
    cache = tmp_path / "cache"

    answered = threading.Event()

    def serve(process: WarmProcess, lora: LoraRequest) -> ProbeResult:
        result = whole(process, lora)
        answered.set()
        return result

    whole = WarmProcess.serve
    monkeypatch.setattr(WarmProcess, "serve", serve)

    def interrupt() -> None:
        """When the first request is done."""
        answered.wait(60)
        time.sleep(0.3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    argv = ["serve-bench", str(tmp_path / "a"), "--base", str(tmp_path / "base"), "--device", "cpu"]
    argv += ["--forward", "modules", "--cache-dir", str(cache), "--num-prompts", "1000000", "--format", "json"]
    watcher = threading.Thread(target=interrupt)
    watcher.start()
    assert main(argv) == 130
    watcher.join()
    out, err = capsys.readouterr()
    document = valid(out)
    assert 0 < document["completed"] < 1_000_000
    assert f"interrupted after {document['completed']} of 1000000 requests" in err


def test_loads_cost_what_a_server_of_ours_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "live.json"
    runs = [{"tiers": ["cold", "hot", "warm", "", "cold"], "load_ms": [30.0, 0.0, 5.0, None, 30.0]}]
    file.write_text(json.dumps({"mode": "live", "tiers_from": "server", "runs": runs}))
    assert main([*SMALL, "--measured", str(file), "--format", "json"]) == 0
    tiers = valid(capsys.readouterr().out)["tiers"]
    assert tiers["gpu"]["load"] == {"ms": 5.0, "gb_per_s": None, "origin": "measured"}
    assert tiers["cpu"]["load"] == {"ms": 25.0, "gb_per_s": None, "origin": "measured"}
    file.write_text(json.dumps({"mode": "live", "tiers_from": "inferred", "runs": runs}))
    assert main([*SMALL, "--measured", str(file)]) == 2
    assert "the server did not report its load times" in capsys.readouterr().err


def test_loads_cost_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"latency_ms": {"gpu": [1, 2, 3], "cpu": [7, 7], "disk": [50, 20, 30]}}))
    assert main([*SMALL, "--measured", str(file), "--format", "json"]) == 0
    tiers = valid(capsys.readouterr().out)["tiers"]
    assert tiers["gpu"]["load"] == {"ms": 5.0, "gb_per_s": None, "origin": "measured"}
    assert tiers["cpu"]["load"] == {"ms": 23.0, "gb_per_s": None, "origin": "measured"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "latency_ms: must be an object, not null"),
        ({"latency_ms": {"gpu": [1], "cpu": [], "disk": [2]}}, "no request found its adapter in memory"),
        ({"latency_ms": {"gpu": [-1], "cpu": [1], "disk": [2]}}, 'latency_ms["gpu"][0]: must be from 0 to 1e9 ms'),
        ({"latency_ms": {"gpu": ["1"]}}, "must be a number"),
    ],
)
def test_a_result_without_such_loads_is_refused(
    document: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(document))
    assert main([*SMALL, "--measured", str(file)]) == 2
    assert message in capsys.readouterr().err
