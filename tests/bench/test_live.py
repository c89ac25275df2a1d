"""What a live run says of its answers: times, tiers, numbers, intervals."""

import itertools
import json
import math
import time
from statistics import median

import pytest

from lora_cli.bench.live.load_generator import LoadTest, Stream, run_load
from lora_cli.bench.live.requests import RequestResult, prepare_requests
from lora_cli.bench.live.result import (
    INFERRED,
    LiveRun,
    adapter_meets_slo,
    classify_tiers,
    failures_by_adapter,
    live_metric_names,
    live_report,
    meets_slo,
    parse_goodput,
    run_metrics,
)
from lora_cli.bench.live.target import find_target, find_vocabulary
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.report import LiveReport, describe_run
from lora_cli.bench.trace import Request, build_trace
from lora_cli.bench.workload import Lengths, SyntheticWorkload, make_requests
from lora_cli.endpoint.address import parse_address
from lora_cli.errors import EndpointError, FormatError, UsageError
from tests.attacks.measured import slowness
from tests.bench.null_server import NullServer

pytestmark = pytest.mark.slow


def answer(
    name: str = "a",
    *,
    at: float = 0.0,
    sent: float | None = None,
    chunks: tuple[float, ...] = (0.1, 0.2, 0.4),
    tier: str = "",
    load_ms: float | None = None,
    error: str = "",
) -> RequestResult:
    """Scheduled at ``at``, its pieces so many seconds after that."""
    sent_s = at if sent is None else sent
    whole = tuple(at + one for one in chunks)
    return RequestResult(name, at, at, sent_s, whole, 8, len(chunks), tier, load_ms, error)


def run(*answers: RequestResult, timed: bool = True) -> LiveRun:
    return LiveRun(answers, *classify_tiers(answers), timed)


def reported(run: LiveRun) -> LiveReport:
    report = live_report(*describe_run("live", build_trace([Request(0.0, "a", 8, 3)]), 0, {}, {}), "tiny", {}, run)
    assert isinstance(report.result, LiveReport)
    return report.result


def test_latency_counts_from_the_time_that_a_request_was_to_be_sent() -> None:
    """What the client holds back is part of it; vLLM's own keys leave it out, and say it beside."""
    found = run_metrics(run(answer(at=1.0, sent=1.05)), {})
    assert found["ttft_p50_ms"] == pytest.approx(100)
    assert found["e2el_p50_ms"] == pytest.approx(400)
    assert found["tpot_p50_ms"] == pytest.approx(150)
    assert [found["itl_p50_ms"], found["itl_max_ms"]] == pytest.approx([100, 200])
    assert found["median_ttft_ms"] == pytest.approx(50)
    assert found["median_e2el_ms"] == pytest.approx(350)
    assert found["median_client_queue_time_ms"] == pytest.approx(50)
    assert found["median_e2el_including_client_queue_ms"] == pytest.approx(400)
    assert set(found) == live_metric_names()


def test_a_failure_is_infinitely_slow_and_missed_and_in_no_mean() -> None:
    found = run_metrics(run(answer(), answer(), answer(chunks=(), error="500: it broke")), {"ttft": 500.0})
    assert (found["completed"], found["failed"]) == (2, 1)
    assert found["ttft_p50_ms"] == pytest.approx(100)
    assert found["ttft_p99_ms"] == found["e2el_max_ms"] == math.inf
    assert found["ttft_mean_ms"] == found["p99_ttft_ms"] == pytest.approx(100)
    assert found["slo_attainment"] == pytest.approx(2 / 3)
    assert found["adapters_slo_attainment"] == 0


def test_where_the_server_says_tiers_it_is_believed() -> None:
    told = run(answer(tier="disk", load_ms=40.0), answer(tier="cpu", load_ms=2.0), answer(tier="gpu"), answer())
    assert (list(told.kinds), told.tiers_from) == (["cold", "warm", "hot", ""], "server")
    found = run_metrics(told, {})
    assert [found["hit_ratio"], found["memory_hit_ratio"]] == pytest.approx([1 / 3, 2 / 3])
    assert (found["load_p50_ms"], found["load_max_ms"]) == (2, 40)


def test_elsewhere_cold_is_who_is_asked_before_an_adapter_has_answered_anything() -> None:
    told = run(answer("a"), answer("a", at=0.05), answer("a", at=0.5), answer("b", at=0.6, error="x"))
    assert (list(told.kinds), told.tiers_from) == (["cold", "cold", "later", "cold"], "inferred")
    assert run_metrics(told, {})["hit_ratio"] is None


def test_what_being_cold_costs_is_the_distance_of_the_medians() -> None:
    found = run_metrics(run(answer(tier="disk", chunks=(0.5,)), answer(tier="gpu"), answer(tier="gpu")), {})
    assert found["cold_penalty_ms"] == pytest.approx(400)
    assert found["cold_ttft_p99_ms"] == pytest.approx(500)
    assert found["warm_ttft_p99_ms"] is None
    assert (found["cold_requests"], found["hot_requests"]) == (1, 2)


def test_what_failed_is_told_by_the_adapter_that_was_asked() -> None:
    told = run(answer("a", error="500: first"), answer("a", error="500: second"), answer("b"))
    found = reported(told)
    assert failures_by_adapter(told.results) == {"a": (2, "500: first")}
    assert found.failures == {"a": "2 of its requests failed: 500: first"}
    assert found.per_adapter["a"]["failed"] == 2
    assert found.per_adapter["b"]["ttft_p99_ms"] == pytest.approx(100)
    assert not found.late


def test_a_late_generator_marks_the_run_unless_all_come_at_once() -> None:
    late = RequestResult("a", 0.0, 0.006, 0.006, (0.1,), 8, 1)
    for timed in (True, False):
        assert reported(run(late, timed=timed)).late is timed


def test_lateness_is_from_the_time_that_a_request_was_due() -> None:
    late = RequestResult("a", 2.0, 2.006, 2.007, (0.1,), 8, 1)
    assert run_metrics(run(late), {})["lateness_p99_ms"] == pytest.approx(6)


def test_a_request_is_good_when_it_keeps_everything() -> None:
    slo = parse_goodput(["ttft:100", "tpot:150,e2el:400"])
    assert slo == {"ttft": 100, "tpot": 150, "e2el": 400}
    assert meets_slo(answer(), {"ttft": 101, "tpot": 151, "e2el": 401})
    assert not meets_slo(answer(), {"ttft": 99})
    assert meets_slo(answer(chunks=(0.05,)), {"tpot": 0})  # one token: no time for another, as in vLLM
    assert adapter_meets_slo([answer()] * 99 + [answer(chunks=(9.0,))], {"ttft": 101})
    assert not adapter_meets_slo([answer()] * 98 + [answer(chunks=(9.0,))] * 2, {"ttft": 101})


@pytest.mark.parametrize("word", ["ttft", "ttft:", "ttft:-1", "itl:5", "ttft:inf", "ttft:nan"])
def test_a_goodput_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--goodput"):
        parse_goodput([word])


def test_a_stream_is_read_however_it_is_cut() -> None:
    pieces = b'data: {"choices": [{"text": "a"}]}\n\n: ping\n\ndata: {"choices": [{"text": ""}]}\n\n'
    end = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\ndata: [DONE]\n\n'
    for size, feed in itertools.product((1, 7, 1000), (b"\n", b"\r\n")):
        stream, data = Stream(), (pieces + end).replace(b"\n", feed)
        for start in range(0, len(data), size):
            stream.feed(data[start : start + size], start / 1e3)
        assert (len(stream.chunks_s), stream.prompt_tokens, stream.output_tokens) == (2, 3, 2)
        assert (stream.done, stream.error) == (True, "")


def test_an_error_within_a_stream_is_the_requests_own() -> None:
    stream = Stream()
    stream.feed(b'data: {"error": {"message": "out of\\nmemory", "code": 500}}\n\n', 0.1)
    assert stream.error == "out of memory"
    with pytest.raises(FormatError):
        stream.feed(b"data: {nonsense\n\n", 0.2)
    for said, told in (({"error": "Unauthorized"}, "Unauthorized"), ({"error": {"detail": ["x"]}}, "nothing more")):
        stream = Stream()
        stream.feed(b"data: " + json.dumps(said).encode() + b"\n\n", 0.1)
        assert stream.error == told


def test_prompts_have_the_lengths_of_the_trace_and_no_two_are_the_same() -> None:
    trace = build_trace([Request(0.5, "a", 7, 3), Request(0.5, "b", 7, 0), Request(0.6, "a", 0, 5)])
    made = prepare_requests(trace, {"a": "base:a", "b": "b"}, 1, 100)
    bodies = [json.loads(one.body) for one in made]
    assert [(body["model"], len(body["prompt"]), body["max_tokens"]) for body in bodies] == [
        ("base:a", 7, 3),
        ("b", 7, 1),
        ("base:a", 1, 5),
    ]
    assert all(3 <= one < 100 for body in bodies for one in body["prompt"])
    assert bodies[0]["prompt"] != bodies[1]["prompt"]
    assert (
        prepare_requests(trace, {"a": "base:a", "b": "b"}, 1, 100)
        == made
        != prepare_requests(trace, {"a": "base:a", "b": "b"}, 2, 100)
    )
    text = json.loads(prepare_requests(trace, {"a": "a", "b": "b"}, 1, 100, "text")[0].body)["prompt"]
    assert len(text.split()) == 7


def test_two_hundred_requests_a_second_are_sent_at_their_times() -> None:
    """Half of them within 5 ms (on a quiet machine 99 of 100: benchmarks/load.py), for less than one processor.

    In one of four tries, and on a slower machine as many fewer and later: others use this machine too.
    """
    tries = []
    with NullServer("--adapters", 50) as server:
        target = find_target(parse_address(server.url), "", [])
        for _ in range(4):
            slower = slowness()
            sent = max(50, round(400 / slower))
            traffic = SyntheticWorkload(
                parse_popularity("zipf:1.0"), sent, 0, request_rate=200.0 / slower, output_len=Lengths(4, 4)
            )
            load = prepare_requests(make_requests(list(target.models), traffic), target.models, 0, 1000)
            course, before = list[RequestResult](), time.process_time()
            run_load(LoadTest(target.address, "", load), course)
            spent_s = (time.process_time() - before) / sent
            assert [one.error for one in course] == [""] * sent
            assert all(one.woke_s >= one.scheduled_s - 0.001 for one in course)
            assert all(one.sent_s >= one.woke_s for one in course)
            late_s = median(one.woke_s - one.scheduled_s for one in course)
            if late_s <= 0.005 * slower and spent_s < 0.005 * slower:
                return
            tries.append((late_s, spent_s, slower))
    pytest.fail(f"{tries}")


def test_where_metrics_tell_the_slots_a_later_request_is_hot_by_recency() -> None:
    names = ["a", "b", "a", "c", "a", "b", "c"]
    answers = [answer(name, at=float(number)) for number, name in enumerate(names)]
    assert classify_tiers(answers, 2) == (["cold", "cold", "hot", "cold", "hot", "warm", "warm"], INFERRED)
    assert classify_tiers(answers)[0] == ["cold", "cold", "later", "cold", "later", "later", "later"]


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_that_refuses_token_ids_gets_smaller_ones(status: int) -> None:
    with NullServer("--vocabulary", 60, "--vocabulary-status", status) as server:
        target = find_target(parse_address(server.url), "", [])
        assert find_vocabulary(target, Request(0.0, "a0", 4, 1)) == 16


def test_a_server_that_refuses_for_another_reason_is_not_asked_again() -> None:
    with NullServer("--vocabulary", 60, "--vocabulary-status", 403) as server:
        target = find_target(parse_address(server.url), "", [])
        with pytest.raises(EndpointError, match="out of vocabulary"):
            find_vocabulary(target, Request(0.0, "a0", 4, 1))
