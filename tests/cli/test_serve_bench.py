"""``lora-cli serve-bench`` of a server that costs next to nothing, and of none: results, conditions, mistakes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lora_cli.cli.main import main
from tests.answering import Asked, Reply, answering
from tests.bench.null_server import NullServer
from tests.making import write_adapter

SIMULATED = ["serve-bench", "--simulate", "--num-prompts", "1500", "--num-adapters", "60"]
FEW = ["--num-prompts", "40", "--input-len", "4-9", "--output-len", "3"]
Json = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    """It names no tiers: three adapters, two of which are held."""
    with NullServer("--load-ms", 40) as running:
        yield running.url


@pytest.fixture(scope="module")
def ours() -> Iterator[str]:
    """The same, and it names tiers."""
    with NullServer("--load-ms", 40, "--owned-by", "lora-cli") as running:
        yield running.url


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str]) -> Json:
    def run(*argv: str, code: int = 0) -> dict[str, Any]:
        assert main([*argv, "--format", "json"]) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert found["schema"] == "lora_cli/serve-bench/2"
        return found

    return run


def test_requests_are_split_by_the_tiers_that_the_server_names(ours: str, measured: Json) -> None:
    found = measured("serve-bench", "--url", ours, *FEW, "--goodput", "ttft:60000,tpot:60000", "--seed", "3")
    metrics = found["metrics"]
    tiers = [one["tier"] for one in found["requests"]]
    assert {tier: metrics[f"{tier}_requests"] for tier in ("hot", "warm", "cold")} == {
        tier: tiers.count(tier) for tier in ("hot", "warm", "cold")
    }
    assert tiers[0] == "cold"
    assert metrics["cold_p50_ttft_ms"] >= 40
    assert metrics["cold_penalty_ms"] == pytest.approx(metrics["cold_p50_ttft_ms"] - metrics["warm_p50_ttft_ms"])
    assert metrics["p99_load_ms"] == 40
    assert (metrics["completed"], metrics["failed"], metrics["slo_attainment"]) == (40, 0, 1)
    assert metrics["total_output_tokens"] == 120
    assert metrics["total_input_tokens"] == sum(one["prompt_tokens"] for one in found["requests"])
    assert found["server"] == {"engine": "lora-cli", "base": "tiny", "url": ours}
    assert (found["workload"]["requests"], found["workload"]["goodput"]) == (40, "ttft:60000,tpot:60000")


def test_without_times_each_client_sends_after_its_last_answer(vllm: str, measured: Json) -> None:
    found = measured("serve-bench", "--url", vllm, *FEW)
    run = found["requests"]
    assert found["metrics"]["max_concurrent_requests"] == 1
    assert all(later["sent_s"] >= one["last_s"] for one, later in pairwise(run))
    found = measured("serve-bench", "--url", vllm, *FEW, "--max-concurrency", "3", "a2", "a0")
    assert found["metrics"]["max_concurrent_requests"] <= 3
    assert {one["adapter"] for one in found["requests"]} == {"a0", "a2"}


def test_in_an_open_loop_what_the_client_holds_back_counts(vllm: str, measured: Json) -> None:
    found = measured("serve-bench", "--url", vllm, *FEW, "--request-rate", "inf", "--max-concurrency", "2")
    run = found["requests"]
    assert found["metrics"]["max_concurrent_requests"] == 2
    assert {one["scheduled_s"] for one in run} == {0}
    assert run[-1]["sent_s"] > run[0]["last_s"]
    assert found["metrics"]["p99_e2el_ms"] == pytest.approx(1e3 * max(one["last_s"] for one in run))


def test_where_no_tiers_are_named_they_are_inferred(vllm: str, measured: Json) -> None:
    found = measured("serve-bench", "--url", vllm, *FEW, "--max-loras", "1", "--max-cpu-loras", "2")
    assert found["tiers_from"] == "inferred, the server names none: least recently used of 1 slots, 2 in memory"
    assert all(found["metrics"][f"{tier}_requests"] for tier in ("hot", "warm", "cold"))
    found = measured("serve-bench", "--url", vllm, *FEW, "--num-adapters", "2")
    assert "a first request is cold" in found["tiers_from"]
    assert [found["metrics"][f"{tier}_requests"] for tier in ("hot", "warm", "cold")] == [0, 38, 2]
    assert found["server"]["version"] == "0.33.0"


def test_sglang_is_asked_for_an_adapter_on_its_base(measured: Json) -> None:
    with NullServer("--owned-by", "sglang") as sglang:
        assert measured("serve-bench", "--url", f"{sglang.url}/v1", *FEW)["metrics"]["completed"] == 40


def test_people_read_vllms_block_and_the_tiers_side_by_side(ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-bench", "--url", ours, *FEW, "--fail-if", "failed>0"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert lines[1] == f"{'Successful requests:':<40} 40"
    assert "---------------Time to First Token----------------" in lines
    assert any(line.startswith("P99 E2EL (ms): ") for line in lines)
    rows = [line.split() for line in out.partition("\nms ")[2].splitlines()[1:11]]
    assert [row[0] for row in rows] == ["requests", *["ttft"] * 3, *["tpot"] * 3, *["e2el"] * 3]
    assert all(len(row) in {5, 6} for row in rows)
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "passed  failed > 0 is not true: the value is 0"
    assert err == "sending 40 requests\n"


def test_an_adapter_that_fails_is_told_and_the_others_are_measured(
    tmp_path: Path, measured: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f'{{"t": {n / 200}, "adapter": "a{n % 3}", "output_tokens": 4}}\n' for n in range(40)))
    with NullServer("--fails", "a1") as broken:
        argv = ["serve-bench", "--url", broken.url, "--trace", str(trace), "--fail-if", "p99_ttft_ms>5000"]
        found = measured(*argv, "--goodput", "ttft:60000", code=7)
        assert main(argv) == 7
    assert (found["metrics"]["completed"], found["metrics"]["failed"]) == (27, 13)
    assert found["failures"] == {"a1": "13 of its requests failed: 500: it broke"}
    assert found["metrics"]["slo_attainment"] == pytest.approx(27 / 40)
    assert found["metrics"]["p99_ttft_ms"] is None  # infinite, which JSON has no number for
    assert found["fail_if"][0]["failed"] is True
    out, err = capsys.readouterr()
    assert "a1: 13 of its requests failed: 500: it broke" in out
    assert err.splitlines()[1:] == [
        "failed: p99_ttft_ms > 5000 is true: the value is inf",
        "error: 1 adapter failed: a1",
    ]


def test_a_server_that_dies_in_between_leaves_what_it_answered(measured: Json) -> None:
    with NullServer("--dies-after", 10) as dying:
        metrics = measured("serve-bench", "--url", dying.url, *FEW, code=7)["metrics"]
    assert metrics["completed"] + metrics["failed"] == 40
    assert 0 < metrics["completed"] <= 10


@pytest.mark.slow
def test_an_interrupt_leaves_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(url: str) -> None:
        while httpx2.get(f"{url}/completed", trust_env=False).json() < 10:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    with NullServer("--token-ms", 1) as running:
        threading.Thread(target=interrupt, args=(running.url,)).start()
        argv = ["serve-bench", "--url", running.url, "--num-prompts", "5000", "--request-rate", "50"]
        assert main([*argv, "--format", "json"]) == 130
    out, err = capsys.readouterr()
    metrics = json.loads(out)["metrics"]
    assert 5 < metrics["completed"] < 5000
    assert metrics["failed"] == 0
    assert f"interrupted after {metrics['completed']} of 5000 requests" in err


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'data: {"error": {"message": "out of\\nmemory", "code": 500}}\n\n', "out of memory"),
        (b"data: {nonsense\n\n", "Expecting property name"),
        (b"data: [1]\n\n", "an event: must be an object"),
        (b'data: {"choices": [{"text": "a"}]}\r\n\r\n', "the answer is incomplete"),
        (b"data: [DONE]\n\n", "the answer has no tokens"),
    ],
)
def test_a_stream_that_is_none_is_the_requests_error(body: bytes, why: str, measured: Json) -> None:
    models = b'{"data": [{"id": "a", "parent": "b", "owned_by": "vllm"}]}'
    with answering(lambda asked: (200, models if asked.path == "/v1/models" else body, {})) as url:
        found = measured("serve-bench", "--url", url, "--num-prompts", "1", code=7)
    assert why in found["failures"]["a"]


def test_slots_are_simulated_over_a_workload_or_a_trace(
    measured: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(*SIMULATED, "--max-loras", "4, 2", "--max-cpu-loras", "8")
    assert found["simulated"] == [2, 4]
    assert len(found["metrics"]) == 12
    assert found["metrics"]["lru_hit_ratio_4"] < found["metrics"]["belady_hit_ratio_4"]
    (tmp_path / "trace.jsonl").write_text('"a"\n"b"\n"a"\n"c"\n"a"\n"b"\n')
    argv = ["serve-bench", "--simulate", "--trace", str(tmp_path / "trace.jsonl"), "--max-loras", "1,2,3"]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith(
        "slots    lru    lfu  belady\n1      0.000  0.000   0.000\n2      0.333  0.333   0.333\n"
        "3      0.500  0.500   0.500\n\nworkload  requests 6, adapters 3, trace"
    )


def test_adapters_are_named_by_a_set_by_words_or_by_weights(measured: Json, tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
        "adapters: [{name: small, source: ./small}, {name: large, source: ./large}]\n"
    )
    (tmp_path / "weights.json").write_text('{"sql": 8, "chat": 1, "mail": 1}')
    start = ["serve-bench", "--simulate", "--num-prompts", "500", "--max-loras", "1"]
    for argv, adapters in (
        (["-f", str(tmp_path / "set.yaml")], 2),
        (["-f", str(tmp_path / "set.yaml"), "small"], 1),
        (["one", "two", "three"], 3),
        (["--popularity", str(tmp_path / "weights.json")], 3),
        ([], 160),
    ):
        assert measured(*start, *argv)["workload"]["adapters"] == pytest.approx(adapters, abs=20 * (adapters > 9))


@pytest.mark.parametrize(("form", "drawn_by"), [((), {"rich"}), (("--format", "json"), set[str]())])
def test_a_simulation_needs_neither_torch_nor_numpy(form: tuple[str, ...], drawn_by: set[str]) -> None:
    code = "import sys\nfrom lora_cli.cli.main import main\nmain(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *SIMULATED, *form], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "numpy", "httpx2", "rich", "yaml"} & set(done.stderr.split()) == drawn_by


def test_conditions_are_reported_and_a_failed_one_ends_with_1(
    tmp_path: Path, measured: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = ["--fail-if", "lfu_hit_ratio_8<0.99", "--fail-if", "lru_hit_ratio_8>0.99"]
    assert [one["failed"] for one in measured(*SIMULATED, *conditions, code=1)["fail_if"]] == [True, False]
    file = tmp_path / "run.txt"
    assert main([*SIMULATED, *conditions, "--format", f"human={file}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("failed: lfu_hit_ratio_8 < 0.99 is true: the value is 0.")
    assert "passed  lru_hit_ratio_8 > 0.99 is not true: the value is " in file.read_text()


def closed_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize(
    ("argv", "said", "code"),
    [
        ([], "there is nothing to measure", 2),
        (["--simulate", "--url", "u"], "--url and --simulate cannot be used together", 2),
        (["--simulate", "--goodput", "ttft:5"], "--goodput and --simulate cannot be used together", 2),
        (["--url", "u", "--base", "b"], "--base and --url cannot be used together", 2),
        (["--simulate", "--trace", "nowhere.jsonl"], "there is no trace nowhere.jsonl", 3),
        (["--simulate", "--max-loras", "8,x"], "--max-loras '8,x': must be numbers of slots", 2),
        (["--simulate", "--max-loras", "8", "--max-cpu-loras", "4"], "--max-cpu-loras is 4, less than", 2),
        (["--simulate", "--fail-if", "lru_hit_ratio_9<1"], "unknown metric\nhint: did you mean lru_hit_ratio_", 2),
        (["--simulate", "--format", "html=no/where.html"], "the folder does not exist", 6),
        (["--simulate", "--num-prompts", "0"], "num-prompts", 2),
        (["--url", "URL", "--max-loras", "8,16"], "--max-loras 8,16: a server has one number", 2),
        (["--url", "URL", "--request-rate", "fast"], "--request-rate 'fast': must be a number above 0, or inf", 2),
        (["--url", "URL", "--fail-if", "cold_p98_ttft_ms>1"], "unknown metric\nhint: did you mean cold_p9", 2),
        (["--url", "ftp://x"], "ftp://x is not the address of a server", 2),
        (["--url", "URL"], "error: cannot connect to http://127.0.0.1:", 7),
    ],
)
def test_what_is_wrong_is_one_line(
    argv: list[str], said: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t").write_text('"a"')
    assert main(["serve-bench", *(closed_port() if word == "URL" else word for word in argv)]) == code
    out, err = capsys.readouterr()
    assert said in err
    assert (out, err.count("error: ")) == ("", 1)


def test_what_a_server_lacks_is_one_line(vllm: str, measured: Json, capsys: pytest.CaptureFixture[str]) -> None:
    with NullServer("--adapters", 0) as bare:
        assert main(["serve-bench", "--url", bare.url]) == 7
        assert capsys.readouterr().err.startswith(f"error: {bare.url} serves no adapters\nhint: load them")
    found = measured("serve-bench", "--url", vllm, "nope", "--num-prompts", "2", code=7)
    assert found["failures"] == {"nope": "2 of its requests failed: 404: The model `nope` does not exist."}


def test_the_token_is_a_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[str | None] = []

    def refuse(asked: Asked) -> Reply:
        tokens.append(asked.headers["authorization"])
        return 401, b"{}", {}

    with answering(refuse) as url:
        assert main(["serve-bench", "--url", url]) == 7
        monkeypatch.setenv("LORA_CLI_API_KEY", "secret")
        assert main(["serve-bench", "--url", url]) == 7
    assert tokens == [None, "Bearer secret"]
    assert capsys.readouterr().err.count("LORA_CLI_API_KEY") == 2


def test_what_keeps_our_own_server_from_starting_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    write_adapter(tmp_path / "a")
    assert main(["serve-bench", str(tmp_path / "a"), "--base", str(tmp_path / "nothing")]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: --forward model needs the base's weights")
    assert err.count("error: ") == 1
