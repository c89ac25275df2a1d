"""``serve-bench --url`` against servers that answer as vLLM and ours do, and against those that do not."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lora_cli.cli.main import main, repeat_flags
from tests.bench.null_server import NullServer
from tests.cli.test_bench_results import valid
from tests.cli.test_bench_simulate import explained
from tests.endpoint.engine import Engine
from tests.faulty_proxy import FaultyProxy
from tests.sources.raw_servers import CERTIFICATE

pytestmark = pytest.mark.slow

SHORT = ["--num-prompts", "40", "--request-rate", "200", "--output-len", "4", "--input-len", "4-9"]


@pytest.fixture(scope="module")
def server() -> Iterator[NullServer]:
    """Three adapters, two slots, tiers in headers as ours has them; a load takes 30 ms, from memory a quarter."""
    with NullServer("--owned-by", "lora-cli", "--load-ms", 30, "--token-ms", 1) as running:
        yield running


@pytest.fixture(scope="module")
def vllm() -> Iterator[NullServer]:
    """The same that says no tiers, and takes no token ids above 60."""
    with NullServer("--load-ms", 30, "--vocabulary", 60) as running:
        yield running


def bench(server: NullServer | Engine, *argv: str) -> list[str]:
    return ["serve-bench", "--url", server.url, *argv]


def measured(capsys: pytest.CaptureFixture[str], argv: list[str], code: int = 0) -> dict[str, Any]:
    assert main([*argv, "--format", "json"]) == code, capsys.readouterr().err
    return valid(capsys.readouterr().out)


def test_a_server_behind_tls_is_measured_with_the_certificates_of_the_environment(
    server: NullServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with FaultyProxy(server.url, certificate=CERTIFICATE, raw=True) as outside:
        found = measured(capsys, ["serve-bench", "--url", outside.url, *SHORT])
    assert (found["completed"], found["failed"]) == (40, 0)


def test_a_server_is_measured_by_the_tiers_that_it_names(
    server: NullServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate that a slow machine keeps up with: requests that queue behind each other all wait as long."""
    more = ["--goodput", "ttft:25", "e2el:500", "--request-rate", "40"]
    found = measured(capsys, bench(server, *SHORT, *more))
    assert (found["mode"], found["backend"], found["endpoint_type"]) == ("live", "openai", "openai")
    assert (found["num_prompts"], found["completed"], found["failed"]) == (40, 40, 0)
    assert found["total_output_tokens"] == 160
    assert (found["seed"], found["tiers_from"], found["adapters"]) == (0, "server", 3)
    assert found["slo_ms"] == {"ttft": 25, "e2el": 500}
    assert sum(found["hits"].values()) == 40
    assert found["hits"]["hot"] > 0
    assert found["hits"]["warm"] > 0
    metrics = found["metrics"]
    assert metrics["warm_ttft_p50_ms"] > metrics["hot_ttft_p50_ms"] > 0
    assert 0 < metrics["tpot_p50_ms"] < metrics["e2el_p50_ms"]
    assert 0 < metrics["slo_attainment"] <= 1
    assert len(found["requests"]["ttfts"]) == 40
    assert set(found["per_adapter"]) == {"a0", "a1", "a2"}
    assert (found["environment"]["engine"], found["environment"]["device"]) == ("lora-cli", "cpu")


@pytest.fixture
def new_vllm() -> Iterator[NullServer]:
    """One whose adapters nobody has asked for before."""
    with NullServer("--load-ms", 30, "--vocabulary", 60) as running:
        yield running


def test_where_the_server_names_none_they_are_inferred_and_marked_so(
    new_vllm: NullServer, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = bench(new_vllm, *SHORT, "--popularity", "uniform", "--request-rate", "60")
    found = measured(capsys, argv)
    assert found["tiers_from"] == "inferred"
    assert found["environment"]["engine_version"] == "0.33.0"
    assert found["hits"]["cold"] >= 3
    assert found["hits"]["cold"] + found["hits"]["later"] == 40
    assert found["metrics"]["cold_penalty_ms"] > 10
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "later (inferred)" in out
    assert "inferred from the order of requests" in " ".join(out.split())


def test_several_names_follow_one_flag_as_in_vllm(vllm: NullServer, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, bench(vllm, "--lora-modules", "a2", "a0", *SHORT))
    assert set(found["per_adapter"]) == {"a0", "a2"}
    words = ["--goodput", "ttft:1", "tpot:2", "--url", "u", "--goodput=e2el:3", "x"]
    assert repeat_flags(words, ["--goodput"]) == [*words[:2], "--goodput", *words[2:]]
    assert repeat_flags(words, []) == words


def test_only_what_the_table_has_is_explained_below_it(
    server: NullServer, vllm: NullServer, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--num-prompts", "12", "--output-len", "2"]
    assert main(bench(server, *few)) == 0
    first, second, kinds = explained(capsys.readouterr().out)
    assert (first, second) == ("ttft, e2el", "tpot")
    assert set(kinds.split(", ")) <= {"hot", "warm", "cold"}
    assert main(bench(vllm, *few, "--goodput", "ttft:500")) == 0
    assert explained(capsys.readouterr().out)[-1] == "adapters do"
    found = measured(capsys, bench(server, *few))
    assert "slo_attainment" in found["definitions"]


def test_people_see_the_numbers_of_vllm(
    server: NullServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    few = ["--num-prompts", "12", "--output-len", "3"]
    assert main(bench(server, *few)) == 0
    out = capsys.readouterr().out
    block = out.partition("as in vllm bench serve")[2].split("\n\n")[0].splitlines()[1:]
    numbers = {line[:33].strip(): line[33:].split() for line in block[:9]}
    assert (numbers["Successful requests"], numbers["Failed requests"]) == (["12"], ["0"])
    assert numbers["Total generated tokens"] == ["36"]
    assert float(numbers["Benchmark duration (s)"][0]) > 0
    assert float(numbers["Request throughput (req/s)"][0]) > 0
    assert [line.split()[0] for line in block[9:]] == ["ms", "TTFT", "TPOT", "ITL", "E2EL"]
    assert block[9].split() == ["ms", "mean", "median", "p90", "p99"]
    assert all(float(number) > 0 for line in block[10:] for number in line.split()[1:])


@pytest.mark.parametrize("path", ["/v1", "/v1/"])
def test_a_url_as_clients_of_openai_have_it_is_the_same_server(
    vllm: NullServer, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["serve-bench", "--url", vllm.url + path, "--num-prompts", "4", "--output-len", "2"]
    assert measured(capsys, argv)["completed"] == 4


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "sending 5 requests, all at once\n"),
        (["--request-rate", "200"], "sending 5 requests, at 200 per second\n"),
        (["--max-concurrency", "2"], "sending 5 requests, all at once, at most 2 in flight\n"),
        (["--quiet"], ""),
    ],
)  # fmt: skip
def test_what_will_be_sent_is_said_before_it_is(
    vllm: NullServer, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(bench(vllm, "--num-prompts", "5", "--output-len", "2", *argv)) == 0
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert ("sending" in err) is bool(said)


def test_sglang_is_asked_for_an_adapter_on_its_base(capsys: pytest.CaptureFixture[str]) -> None:
    with NullServer("--owned-by", "sglang") as sglang:
        found = measured(capsys, bench(sglang, *SHORT, "--prompts", "text"))
    assert (found["completed"], found["environment"]["engine"]) == (40, "sglang")
    assert set(found["per_adapter"]) == {"a0", "a1", "a2"}
    assert 4 * 40 <= found["total_input_tokens"] <= 9 * 40


def test_all_at_once_waits_for_its_turn_where_few_may_be_under_way(
    server: NullServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the client holds back counts from the time that a request was to be sent; vLLM's keys leave it out."""
    argv = bench(server, "--num-prompts", "30", "--output-len", "4", "--max-concurrency", "2")
    found = measured(capsys, argv)
    assert found["request_rate"] == "inf"
    assert found["max_concurrency"] == found["max_concurrent_requests"] == 2
    assert found["metrics"]["ttft_p50_ms"] > 2 * found["metrics"]["median_ttft_ms"]
    assert found["metrics"]["mean_client_queue_time_ms"] > found["metrics"]["mean_ttft_ms"]
    assert found["late"] is False


def test_the_page_has_the_table_the_curves_and_every_adapter(server: NullServer, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    argv = bench(server, *SHORT, "--format", "html", "-o", str(page))
    assert main(argv) == 0
    text = page.read_text()
    for word in ("hot", "polyline", "a1", "ttft p99"):
        assert word in text


def test_nobody_at_the_url_is_one_message_and_7(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert main(["serve-bench", "--url", url]) == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: cannot connect to {url}: Connection refused\n")


def test_a_server_without_adapters_is_one_message_and_7(capsys: pytest.CaptureFixture[str]) -> None:
    with Engine() as engine:
        assert main(bench(engine)) == 7
        assert f"error: {engine.url} serves no adapters\n" in capsys.readouterr().err


def test_a_name_that_does_not_exist_is_one_message_and_7(vllm: NullServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(bench(vllm, "--lora-modules", "a1", "aa2")) == 7
    assert capsys.readouterr().err.startswith(f"error: {vllm.url} serves no model 'aa2', of 4\nhint: ")


def test_a_bad_line_of_a_trace_is_one_message_and_2(
    vllm: NullServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"t": 0, "adapter": "a0"}\n{"t": "soon", "adapter": "a1"}\n')
    assert main(bench(vllm, "--trace", str(trace))) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {trace}: line 2: t: ")
    assert err.count("error") == 1


def test_an_adapter_that_fails_is_told_and_the_rest_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with NullServer("--fails", "a1") as broken:
        trace = tmp_path / "trace.jsonl"
        trace.write_text("".join(f'{{"t": {n / 200}, "adapter": "a{n % 3}", "output_tokens": 4}}\n' for n in range(40)))
        argv = bench(broken, "--trace", str(trace), "--goodput", "ttft:5000")
        assert main([*argv, "--format", "json", "--fail-if", "ttft_p99_ms>5000"]) == 7
        out, err = capsys.readouterr()
    found = valid(out)
    assert (found["completed"], found["failed"]) == (27, 13)
    assert found["failures"] == {"a1": "13 of its requests failed: 500: it broke"}
    assert found["metrics"]["slo_attainment"] == pytest.approx(27 / 40)
    assert found["metrics"]["adapters_slo_attainment"] == pytest.approx(2 / 3)
    assert found["metrics"]["ttft_p99_ms"] is None  # infinite, which JSON has no number for
    assert found["fail_if"][0]["failed"] is True
    assert err.count("error: 13 requests failed; the first of a1: 500: it broke") == 1


def test_a_server_that_dies_in_between_leaves_what_it_answered(capsys: pytest.CaptureFixture[str]) -> None:
    with NullServer("--dies-after", 10) as dying:
        assert main([*bench(dying, *SHORT), "--format", "json"]) == 7
    found = valid(capsys.readouterr().out)
    assert found["completed"] + found["failed"] == 40
    assert 0 < found["completed"] <= 10


def interrupt_after(server: NullServer, answers: int) -> None:
    while httpx2.get(f"{server.url}/completed", trust_env=False).json() < answers:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_leaves_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with NullServer("--token-ms", 1) as running:
        threading.Thread(target=interrupt_after, args=(running, 10)).start()
        assert main([*bench(running, "--num-prompts", "1000", "--request-rate", "50"), "--format", "json"]) == 130
    out, err = capsys.readouterr()
    found = valid(out)
    assert 5 < found["completed"] < 500
    assert found["failed"] == 0
    assert f"interrupted after {found['num_prompts']} of 1000 requests" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--simulate"], "--simulate is not for --url"),
        (["./adapter"], "REFs are not for --url"),
        (["--max-loras", "2"], "--max-loras is not for --url"),
        (["--goodput", "fast"], "--goodput fast: must be"),
        (["--prompts", "poems"], "--prompts must be ids or text"),
        (["--fail-if", "cold_ttft_p98_ms>1"], "unknown metric cold_ttft_p98_ms"),
    ],
)
def test_what_does_not_go_together_is_2(
    argv: list[str], said: str, vllm: NullServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(bench(vllm, *argv)) == 2
    assert said in capsys.readouterr().err


def test_what_is_for_a_server_is_refused_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-bench", "--simulate", "--goodput", "ttft:5"]) == 2
    assert "--goodput is for a server" in capsys.readouterr().err
