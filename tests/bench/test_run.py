from collections import OrderedDict

from lora_cli.bench.measured_run import ServedRequest, run_environment, run_trace
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.report import MeasurementReport
from lora_cli.errors import FormatError, MachineError
from tests.requested import requested


class TwoTiers:
    """A server of nothing: least recently used adapters in ``max_loras`` GPU and ``max_cpu_loras`` CPU places."""

    def __init__(self, max_loras: int, max_cpu_loras: int) -> None:
        self.tiers: dict[str, OrderedDict[str, None]] = {"gpu": OrderedDict(), "cpu": OrderedDict()}
        self.places = {"gpu": max_loras, "cpu": max_cpu_loras}
        self.asked: list[str] = []

    def __call__(self, adapter: str) -> ServedRequest:
        self.asked.append(adapter)
        tier = next((name for name, held in self.tiers.items() if adapter in held), "disk")
        evicted = {}
        for name, held in self.tiers.items():
            held[adapter] = None
            held.move_to_end(adapter)
            if len(held) > self.places[name]:
                held.popitem(last=False)
                evicted[name] = 1
        return ServedRequest(tier, {"gpu": 1.0, "cpu": 5.0, "disk": 50.0}[tier], evicted)


def test_each_request_counts_where_its_adapter_was_found() -> None:
    result = run_trace(["a", "a", "b", "a", "c", "b"], TwoTiers(1, 2), 1, 2)
    assert result == MeasurementReport(
        requests=6,
        max_loras=1,
        max_cpu_loras=2,
        latency_ms={"gpu": (1.0,), "cpu": (5.0,), "disk": (50.0, 50.0, 50.0, 50.0)},
        hits={"gpu": 1, "cpu": 1, "disk": 4},
        evictions={"gpu": 4, "cpu": 2},
        failures={},
    )


def test_one_bad_adapter_stops_nothing_and_is_asked_once() -> None:
    inner = TwoTiers(2, 2)

    def serve(adapter: str) -> ServedRequest:
        if adapter == "bad":
            inner.asked.append(adapter)
            raise FormatError("header is truncated", where="adapter_model.safetensors")
        return inner(adapter)

    result = run_trace(["a", "bad", "b", "bad", "a"], serve, 1, 2)
    assert inner.asked == ["a", "bad", "b", "a"]
    assert result.failures == {"bad": "adapter_model.safetensors: header is truncated"}
    assert (result.requests, sum(result.hits.values())) == (5, 3)


def test_an_adapter_known_to_be_broken_is_never_asked() -> None:
    server = TwoTiers(2, 2)
    result = run_trace(["a", "bad"], server, 1, 2, failed={"bad": "no weights"})
    assert (server.asked, result.failures) == (["a"], {"bad": "no weights"})


def test_when_all_fail_there_is_still_a_result() -> None:
    def serve(adapter: str) -> ServedRequest:
        raise MachineError(f"no room for {adapter}")

    result = run_trace(["a", "b"], serve, 1, 2)
    assert (result.hits, result.failures) == (
        {"gpu": 0, "cpu": 0, "disk": 0},
        {"a": "no room for a", "b": "no room for b"},
    )


def test_progress_is_told_after_each_request() -> None:
    told: list[int] = []
    run_trace(["a", "b", "a"], TwoTiers(2, 2), 1, 2, progress=told.append)
    assert told == [1, 2, 3]


def test_more_slots_never_hit_less_on_the_same_trace() -> None:
    names = [f"a{i}" for i in range(50)]
    trace = requested(names, parse_popularity("zipf:1.0"), 3000, seed=1)
    hits = [run_trace(trace, TwoTiers(slots, 50), 1, 2).hits["gpu"] for slots in (1, 2, 4, 8, 16, 50)]
    assert hits == sorted(hits)
    assert hits[-1] == 3000 - 50


def test_the_environment_says_where_the_run_was_made() -> None:
    found = run_environment(device="cpu")
    assert found["device"] == "cpu"
    assert {"lora_cli", "python", "machine", "cores"} < set(found)


def test_an_interrupt_ends_the_run_and_what_was_done_is_its_result() -> None:
    server = TwoTiers(2, 2)

    def serve(adapter: str) -> ServedRequest:
        if len(server.asked) == 2:
            raise KeyboardInterrupt
        return server(adapter)

    result = run_trace(["a", "b", "a", "b"], serve, 1, 2)
    assert (result.requests, result.hits) == (2, {"gpu": 0, "cpu": 0, "disk": 2})
