"""``lora-cli serve-bench`` of a server that costs next to nothing, and of none: results, conditions, mistakes."""

import json
import socket
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.answering import Asked, Reply, answering
from tests.bench.null_server import NullServer
from tests.cli.running import Run
from tests.cli.test_startup import modules_after
from tests.making import write_adapter

SIMULATED = "serve-bench --simulate --num-prompts 1500 --num-adapters 60"
FEW = "--num-prompts 40 --input-len 4-9 --output-len 3"
Measured = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    """It names no tiers: three adapters, two of which are held."""
    with NullServer("--load-ms", 40) as running:
        yield running.url


@pytest.fixture
def ours() -> Iterator[str]:
    """The same, and it names tiers; no test finds what another one had loaded."""
    with NullServer("--load-ms", 40, "--owned-by", "lora-cli") as running:
        yield running.url


@pytest.fixture
def measured(run: Run) -> Measured:
    def measured(line: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run(f"{line} --format json", code).out, parse_constant=pytest.fail)
        assert found["schema"] == "lora_cli/serve-bench/2"
        return found

    return measured


def test_requests_are_split_by_the_tiers_that_the_server_names(ours: str, measured: Measured) -> None:
    found = measured(f"serve-bench --url {ours} {FEW} --goodput ttft:60000,tpot:60000 --seed 3")
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


def test_without_times_each_client_sends_after_its_last_answer(vllm: str, measured: Measured) -> None:
    found = measured(f"serve-bench --url {vllm} {FEW}")
    assert found["metrics"]["max_concurrent_requests"] == 1
    assert all(later["sent_s"] >= one["last_s"] for one, later in pairwise(found["requests"]))
    found = measured(f"serve-bench --url {vllm} {FEW} --max-concurrency 3 --max-loras 2 a2 a0")
    assert found["tiers_from"].endswith("of 2 slots, 2 in memory")
    assert found["metrics"]["max_concurrent_requests"] <= 3
    assert {one["adapter"] for one in found["requests"]} == {"a0", "a2"}


def test_in_an_open_loop_what_the_client_holds_back_counts(vllm: str, measured: Measured) -> None:
    found = measured(f"serve-bench --url {vllm} {FEW} --request-rate inf --max-concurrency 2")
    requests = found["requests"]
    assert found["metrics"]["max_concurrent_requests"] == 2
    assert {one["scheduled_s"] for one in requests} == {0}
    assert requests[-1]["sent_s"] > requests[0]["last_s"]
    assert found["metrics"]["p99_e2el_ms"] == pytest.approx(1e3 * max(one["last_s"] for one in requests))


def test_sglang_is_asked_for_an_adapter_on_its_base(measured: Measured) -> None:
    with NullServer("--owned-by", "sglang") as sglang:
        assert measured(f"serve-bench --url {sglang.url}/v1 {FEW}")["metrics"]["completed"] == 40


def test_people_read_vllms_block_and_the_tiers_side_by_side(ours: str, run: Run) -> None:
    out, err = run(f"serve-bench --url {ours} {FEW} --fail-if failed>0")
    lines = out.splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert lines[1] == f"{'Successful requests:':<40} 40"
    assert "---------------Time to First Token----------------" in lines
    rows = [line.split() for line in out.partition("\nms ")[2].splitlines()[1:11]]
    assert [row[0] for row in rows] == ["requests", *["ttft"] * 3, *["tpot"] * 3, *["e2el"] * 3]
    assert lines[-1] == "passed  failed > 0 is not true: the value is 0"
    assert err.startswith("sending 40 requests")


def test_an_adapter_that_fails_is_told_and_the_others_are_measured(
    tmp_path: Path, measured: Measured, run: Run
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f'{{"t": {n / 200}, "adapter": "a{n % 3}", "output_tokens": 4}}\n' for n in range(40)))
    with NullServer("--fails", "a1") as broken:
        line = f"serve-bench --url {broken.url} --trace {trace} --fail-if p99_ttft_ms>5000"
        found = measured(f"{line} --goodput ttft:60000", 7)
        out, err = run(line, 7)
    assert (found["metrics"]["completed"], found["metrics"]["failed"]) == (27, 13)
    assert found["failures"] == {"a1": "13 of its requests failed: 500: it broke"}
    assert found["metrics"]["slo_attainment"] == pytest.approx(27 / 40)
    assert found["metrics"]["p99_ttft_ms"] is None  # infinite, which JSON has no number for
    assert found["fail_if"][0]["failed"] is True
    assert "a1: 13 of its requests failed: 500: it broke" in out
    assert err.splitlines()[1:] == [
        "failed: p99_ttft_ms > 5000 is true: the value is inf",
        "error: 1 adapter failed: a1",
    ]


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
def test_a_stream_that_is_none_is_the_requests_error(body: bytes, why: str, measured: Measured) -> None:
    models = b'{"data": [{"id": "a", "parent": "b", "owned_by": "vllm"}]}'
    with answering(lambda asked: (200, models if asked.path == "/v1/models" else body, {})) as url:
        found = measured(f"serve-bench --url {url} --num-prompts 1", 7)
    assert why in found["failures"]["a"]


def test_slots_are_simulated_over_a_workload_or_a_trace(measured: Measured, run: Run) -> None:
    found = measured(f"{SIMULATED} --max-loras 4,2 --max-cpu-loras 8")
    assert found["simulated"] == [2, 4]
    assert len(found["metrics"]) == 12
    assert found["metrics"]["lru_hit_ratio_4"] < found["metrics"]["belady_hit_ratio_4"]
    Path("trace.jsonl").write_text('"a"\n"b"\n"a"\n"c"\n"a"\n"b"\n')
    assert run("serve-bench --simulate --trace trace.jsonl --max-loras 1,2,3").out.startswith(
        "slots    lru    lfu  belady\n1      0.000  0.000   0.000\n2      0.333  0.333   0.333\n"
        "3      0.500  0.500   0.500\n\nworkload  requests 6, adapters 3, trace"
    )


@pytest.mark.parametrize(
    ("words", "adapters"),
    [
        ("-f set.yaml", 2),
        ("-f set.yaml small", 1),
        ("one two three", 3),
        ("", pytest.approx(160, abs=20)),
    ],
)
def test_adapters_are_named_by_a_set_or_by_words(words: str, adapters: int, measured: Measured) -> None:
    entries = "[{name: small, source: ./small}, {name: large, source: ./large}]"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: {entries}\n")
    line = f"serve-bench --simulate --num-prompts 500 --max-loras 1 {words}"
    assert measured(line)["workload"]["adapters"] == adapters


def test_a_simulation_needs_neither_torch_nor_numpy() -> None:
    found = modules_after(f"from lora_cli.cli.main import main\nmain({f'{SIMULATED} --format json'.split()!r})")
    assert not found & {"torch", "transformers", "numpy", "httpx2", "rich", "yaml"}


def test_conditions_are_reported_and_a_failed_one_ends_with_1(measured: Measured, run: Run) -> None:
    conditions = "--fail-if lfu_hit_ratio_8<0.99 --fail-if lru_hit_ratio_8>0.99"
    assert [one["failed"] for one in measured(f"{SIMULATED} {conditions}", 1)["fail_if"]] == [True, False]
    out, err = run(f"{SIMULATED} {conditions} --format human=run.txt", 1)
    assert (out, err.startswith("failed: lfu_hit_ratio_8 < 0.99 is true: the value is 0.")) == ("", True)
    assert "passed  lru_hit_ratio_8 > 0.99 is not true: the value is " in Path("run.txt").read_text()


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        ("", "there is nothing to measure", 2),
        ("--simulate --url u", "--url and --simulate cannot be used together", 2),
        ("--simulate --goodput ttft:5", "--goodput and --simulate cannot be used together", 2),
        ("--url u --base b", "--base and --url cannot be used together", 2),
        ("--simulate --trace nowhere.jsonl", "there is no trace nowhere.jsonl", 3),
        ("--simulate s3://loras/team/", "REF is the name of an adapter here", 2),
        ("--simulate --max-loras 8,x", "--max-loras '8,x': must be numbers of slots", 2),
        ("--simulate --max-loras 8 --max-cpu-loras 4", "--max-cpu-loras is 4, less than", 2),
        ("--simulate --fail-if lru_hit_ratio_9<1", "unknown metric\nhint: did you mean lru_hit_ratio_", 2),
        ("--simulate --format html=no/where.html", "the folder does not exist", 6),
        ("--url URL --max-loras 8,16", "--max-loras 8,16: a server has one number", 2),
        ("--url URL --fail-if cold_p98_ttft_ms>1", "unknown metric\nhint: did you mean cold_p9", 2),
        ("--url ftp://x", "ftp://x is not the address of a server", 2),
    ],
)
def test_what_is_wrong_is_one_line(words: str, said: str, code: int, run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    out, err = run(f"serve-bench {words.replace('URL', url)}", code)
    assert (out, said in err, err.count("error: ")) == ("", True, 1)


def test_what_a_server_lacks_is_one_line(vllm: str, measured: Measured, run: Run) -> None:
    with NullServer("--adapters", 0) as bare:
        told = run(f"serve-bench --url {bare.url}", 7).err
    assert told.startswith(f"error: {bare.url} serves no adapters\nhint: load them")
    found = measured(f"serve-bench --url {vllm} nope --num-prompts 2", 7)
    assert found["failures"] == {"nope": "2 of its requests failed: 404: The model `nope` does not exist."}


def test_the_token_is_a_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[str | None] = []

    def refuse(asked: Asked) -> Reply:
        tokens.append(asked.headers["authorization"])
        return 401, b"{}", {}

    with answering(refuse) as url:
        for token in ("", "secret"):
            monkeypatch.setenv("LORA_CLI_API_KEY", token)
            assert "LORA_CLI_API_KEY" in run(f"serve-bench --url {url}", 7).err
    assert tokens == [None, "Bearer secret"]


def test_what_keeps_our_own_server_from_starting_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    write_adapter(Path("a"))
    assert main(["serve-bench", "./a", "--base", "./nothing"]) == 3
    out, err = capfd.readouterr()
    assert (out, err.count("error: ")) == ("", 1)
    assert err.startswith("error: --forward model needs the base's weights")
