"""The steps of an engine: against a model that counts each token of each request, and against sums by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.engine_steps import StepModel, parse_step, simulate_steps
from lora_cli.bench.link_model import Link, Links
from lora_cli.bench.simulator import Fleet, SimulatedTiers
from lora_cli.bench.trace import Request, build_trace
from lora_cli.errors import UsageError
from lora_cli.tiers.memory_accounting import Budget

SIZES = dict.fromkeys("abcdef", 1)
FLEET = Fleet(SIZES, Budget(2), Budget(4), Links(Link(64, None, "given"), Link(8, None, "given")))
MODEL = StepModel(16, 0.5, 3, 8)
"""Times are sums of powers of two: sums in another order are the same."""


def token_by_token(requests: list[Request], slots: int, model: StepModel) -> list[tuple[int, float, float, float]]:
    """The tier, stall, ttft and e2el of each request, by a scheduler that looks at every request in every step."""
    tiers = SimulatedTiers(replace(FLEET, gpu=Budget(slots)), "lru", touches_memory=True)
    found: dict[int, list[float]] = {}
    waiting, running, clock, arrived = list[int](), dict[int, list[int]](), 0.0, 0
    while arrived < len(requests) or waiting or running:
        if not waiting and not running:
            clock = max(clock, requests[arrived].time_s * 1e3)
        while arrived < len(requests) and requests[arrived].time_s * 1e3 <= clock:
            waiting.append(arrived)
            arrived += 1
        given = {number: 1 for number, (left, _) in running.items() if not left}
        room, loads, entered = model.max_num_batched_tokens - len(given), 0.0, []
        for number in [*(one for one, (left, _) in running.items() if left), *list(waiting)]:
            adapter = requests[number].adapter
            batch = {requests[one].adapter for one in running}
            if not room:
                break
            if number not in running:
                if len(running) == model.max_num_seqs or (adapter not in batch and len(batch) == slots):
                    continue
                waiting.remove(number)
                tier, load_ms = tiers.request(adapter)
                if adapter not in batch:
                    tiers.gpu.lease(adapter)
                running[number] = [requests[number].prompt_tokens, requests[number].output_tokens]
                loads += load_ms
                entered.append(number)
                found[number] = [tier]
            given[number] = min(running[number][0], room)
            room -= given[number]
        arrivals = {number: requests[number].time_s * 1e3 for number in running}
        for number in entered:
            found[number].append(clock + loads - arrivals[number])
        clock += loads + model.step_ms + model.token_ms * sum(given.values())
        for number, tokens in given.items():
            left, out = running[number]
            first = left > 0
            running[number] = [max(left - tokens, 0), out - (tokens == left or not left)]
            if first and tokens == left:
                found[number].append(clock - arrivals[number])
            if not running[number][1]:
                found[number].append(clock - arrivals[number])
                del running[number]
                if requests[number].adapter not in {requests[one].adapter for one in running}:
                    tiers.gpu.release(requests[number].adapter)
    return [(int(found[number][0]), *found[number][1:]) for number in range(len(requests))]  # type: ignore[misc]


ONE = st.tuples(st.integers(0, 64), st.sampled_from("abcdef"), st.integers(1, 20), st.integers(1, 6))


@given(st.lists(ONE, min_size=1, max_size=30), st.integers(1, 4))
def test_a_run_is_the_one_that_counts_each_token(drawn: list[tuple[int, str, int, int]], slots: int) -> None:
    requests = [Request(one[0] / 64, *one[1:]) for one in sorted(drawn, key=lambda one: one[0])]
    run = simulate_steps(build_trace(requests), replace(FLEET, gpu=Budget(slots)), "lru", MODEL)
    expected = token_by_token(requests, slots, MODEL)
    assert list(zip(run.tiers.found, run.stalls_ms, strict=True)) == [one[:2] for one in expected]
    assert run.report.ttft_ms["max"] == max(one[2] for one in expected)
    assert run.report.e2el_ms["max"] == max(one[3] for one in expected)
    assert run.report.ttft_ms["mean"] == pytest.approx(sum(one[2] for one in expected) / len(expected))
    assert run.report.e2el_ms["mean"] == pytest.approx(sum(one[3] for one in expected) / len(expected))
    assert run.report.adapters_per_step <= slots
    assert run.report.requests_per_step <= MODEL.max_num_seqs


def test_one_request_takes_its_load_and_its_steps() -> None:
    run = simulate_steps(build_trace([Request(1.0, "a", 6, 4)]), FLEET, "lru", MODEL)
    assert run.stalls_ms[0] == 72
    assert run.report.ttft_ms["p50"] == 72 + 16 + 3
    assert run.report.e2el_ms["p50"] == 72 + 16 + 3 + 3 * 16.5
    assert (run.report.steps, run.report.requests_per_step) == (4, 1.0)
    assert run.report.load_share == pytest.approx(72 / (72 + 19 + 3 * 16.5))


def test_an_adapter_too_many_waits_and_others_pass_it() -> None:
    requests = [Request(0.0, name, 1, 8) for name in "abcab"]
    run = simulate_steps(build_trace(requests), FLEET, "lru", replace(MODEL, max_num_seqs=9))
    assert run.stalls_ms[3] == run.stalls_ms[4] == run.stalls_ms[0] == 144
    assert run.stalls_ms[2] > run.report.ttft_ms["p50"]
    assert list(run.tiers.found) == [2, 2, 2, 0, 0]


@pytest.mark.parametrize("text", ["12", "12,", "0,5", "-1,5", "nan,1", "inf,1", "1,1e9", "a,b", ""])
def test_what_is_no_step_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be milliseconds and microseconds"):
        parse_step(text, None, None)


def test_a_batch_has_a_token_for_each_request() -> None:
    assert parse_step("12,50", 4096, None) == StepModel(12, 0.05, 4096, 4096)
    with pytest.raises(UsageError, match="--max-num-batched-tokens is less"):
        parse_step("12,50", 10, 9)
