"""Load costs of engines: presets with their sources, files of ``--save-links``, and the error against a live run."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.bench.link_model import BYTES_PER_RANK, MeasuredLoads
from lora_cli.bench.links import PRESETS, links_text, parse_links
from lora_cli.bench.policy_comparison import simulate_all
from lora_cli.bench.report import LoadedAdapters
from lora_cli.bench.server_model import simulate_requests
from lora_cli.bench.simulator import CPU, DISK, GPU, Fleet, simulate
from lora_cli.bench.step_times import StepTimes
from lora_cli.bench.trace import Request, build_trace
from lora_cli.cli.main import main
from lora_cli.tiers.memory_accounting import Budget
from tests.bench.null_server import NullServer
from tests.cli.test_bench_results import valid

SMALL = ["serve-bench", "--simulate", "--num-prompts", "200", "--num-adapters", "20", "--max-loras", "4"]
ARRIVALS = [(0.1, "a"), (0.2, "b"), (0.3, "a"), (0.4, "c")]


def simulated(capsys: pytest.CaptureFixture[str], *argv: str, command: Sequence[str] = SMALL) -> dict[str, Any]:
    assert main([*command, *argv, "--format", "json"]) == 0, capsys.readouterr().err
    return valid(capsys.readouterr().out)


@pytest.mark.parametrize(("rank", "measured_ms"), [(8, 66.3), (16, 82.9), (32, 125.6)])
def test_the_loads_of_vllm_are_near_the_published_ones(rank: int, measured_ms: float) -> None:
    links = PRESETS["vllm"]
    assert links.disk.load_ms(rank * BYTES_PER_RANK) == pytest.approx(measured_ms, rel=0.03)
    assert 6.5 <= links.gpu.load_ms(rank * BYTES_PER_RANK) <= 8.7


@pytest.mark.parametrize(
    ("rank", "from_disk_ms", "into_slot_ms"), [(8, 38.2, 17.0), (16, 47.2, 21.9), (32, 41.7, 28.0), (64, 50.9, 42.3)]
)
def test_the_loads_of_sglang_are_near_the_measured_ones(rank: int, from_disk_ms: float, into_slot_ms: float) -> None:
    links = PRESETS["sglang"]
    assert links.disk.load_ms(rank * BYTES_PER_RANK) == pytest.approx(from_disk_ms, rel=0.2)
    assert links.gpu.load_ms(rank * BYTES_PER_RANK) == pytest.approx(into_slot_ms, rel=0.1)


def test_the_loads_of_sglang_were_measured_without_a_gpu_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    found = simulated(capsys, "--links", "sglang")["tiers"]
    assert "without a GPU" in found["links"]
    assert found["gpu"]["load"] == {"ms": 15.0, "gb_per_s": 12.5, "origin": "measured"}


@pytest.mark.parametrize("plan", [[], ["--plan", "hit_ratio>=0.1"]])
def test_the_source_of_a_preset_is_printed(plan: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [*SMALL[:6], *(plan or SMALL[6:]), "--eviction", "lru"]
    found = simulated(capsys, "--links", "vllm", command=command)
    tiers = found["loads"] if plan else found["tiers"]
    assert "arXiv 2508.08343" in tiers["links"]
    assert tiers["gpu"] if plan else tiers["gpu"]["load"] == {"ms": 7.5, "gb_per_s": None, "origin": "published"}
    assert main([*command, "--links", "vllm"]) == 0
    assert "arXiv 2508.08343" in " ".join(capsys.readouterr().out.split())
    default = simulated(capsys, command=command)
    assert "not measured" in (default["loads"] if plan else default["tiers"])["links"]
    named = simulated(capsys, "--links", "lora-cli", command=command)
    assert named["metrics"] == default["metrics"]
    if not plan:
        assert found["metrics"]["stall_p99_ms"] > 4 * default["metrics"]["stall_p99_ms"]


def test_one_given_link_leaves_the_source_of_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    found = simulated(capsys, "--disk-link", "5")
    assert found["tiers"]["links"].startswith("--disk-link as given, the other: lora-cli's warm process")
    assert simulated(capsys, "--disk-link", "5", "--gpu-link", "1")["tiers"]["links"].endswith("as given")


@pytest.mark.parametrize(
    ("argv", "said", "code"),
    [
        (["--links", "none.json"], "--links none.json: not found\nhint: lora-cli, vllm, sglang, or a file", 3),
        (["--links", "vllm", "--gpu-link", "1"], "--links and --disk-link or --gpu-link cannot be used together", 2),
        (["--links", "vllm", "--measured", "x.json"], "--measured is not for --links", 2),
        (["--step", "1,1", "--plan", "hit_ratio>=.5"], "--step is not for --plan", 2),
        (["--save-links", "x.json"], "--save-links is for a server", 2),
        (["--live-result", "x.json", "--plan", "hit_ratio>=.5"], "--live-result is not for --plan", 2),
    ],
)
def test_what_cannot_be_is_one_message(
    argv: list[str], said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL[:6], *argv]) == code
    assert said in capsys.readouterr().err


LINKS: dict[str, object] = {
    "schema": "lora_cli/links/1",
    "source": "\x1b[31mours",
    "disk": {"ms": 9, "gb_per_s": 2},
    "gpu": {"ms": 3},
}


def test_a_links_file_is_used_with_its_source_made_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "links.json"
    file.write_text(json.dumps(LINKS))
    tiers = simulated(capsys, "--links", str(file))["tiers"]
    assert tiers["gpu"]["load"] == {"ms": 3.0, "gb_per_s": None, "origin": "measured"}
    assert tiers["cpu"]["load"] == {"ms": 9.0, "gb_per_s": 2.0, "origin": "measured"}
    assert tiers["links"] == "\\x1b[31mours"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"disk": 5}, "disk: must be an object"),
        ({"gpu": {"ms": -1}}, "gpu.ms: must be from 0 to 1e9 ms"),
        ({"gpu": {"ms": 1, "gb_per_s": 0}}, "gpu.gb_per_s: must be from"),
        ({"source": None}, "source: must be a string"),
        ({"loads_ms": [1]}, "loads_ms: must be an object"),
        ({"loads_ms": {"cold": [-1]}}, 'loads_ms["cold"][0]: must be from 0 to 1e9 ms'),
        ({"side_by_side": 1}, "side_by_side: must be"),
        ({"steps_ms": [1]}, "steps_ms: must be an object"),
        ({"steps_ms": {"1": -1}}, 'steps_ms["1"]: must be from 0 to 1e9 ms'),
        ({"steps_ms": {str(size): 1 for size in range(1, 66)}}, "steps_ms: more than 64 sizes"),
        ({"steps_ms": {"0": 1}}, "steps_ms: 0 is no number of tokens"),
        ({"steps_ms": {"1e3": 1}}, "steps_ms: 1e3 is no number of tokens"),
    ],
)
def test_a_wrong_links_file_is_one_message_and_2(
    change: dict[str, object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "links.json"
    file.write_text(json.dumps(LINKS | change))
    assert main([*SMALL, "--links", str(file)]) == 2
    assert said in capsys.readouterr().err


MEASURED = replace(
    PRESETS["vllm"],
    loads_ms={"warm": (3.0, 1.0), "cold": (20.0,), "first": (200.0, 100.0, 300.0)},
    side_by_side=True,
    steps=StepTimes({16: 5.25, 1: 2.5}),
)


def test_measured_loads_are_kept_and_simulated_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "links.json"
    file.write_text(links_text(MEASURED))
    links = parse_links(str(file), "--links")
    assert (links.loads_ms, links.side_by_side, links.steps) == (MEASURED.loads_ms, True, MEASURED.steps)
    many = tuple(float(number) for number in range(5_000))
    file.write_text(links_text(replace(MEASURED, loads_ms={"cold": many})))
    kept = parse_links(str(file), "--links").loads_ms["cold"]
    assert (len(kept), kept[:2], kept[-1]) == (1000, (2, 7), 4997)
    assert (PRESETS["vllm"].loads_ms, MeasuredLoads(PRESETS["vllm"]).next_ms("cold")) == ({}, None)
    measured = MeasuredLoads(MEASURED)
    assert [measured.next_ms("first") for _ in range(4)] == [200.0, 100.0, 300.0, 200.0]


def test_the_first_load_of_an_adapter_is_one_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A request that came during a load has only the rest of it, and is no load."""
    live = {
        "mode": "live",
        "tiers_from": "server",
        "at_start": {"slots": ["a"], "memory": ["a"], "used": ["a"]},
        "runs": [
            {
                "adapters": ["a", "b", "b", "a", "b", "a"],
                "tiers": ["hot", "cold", "cold", "cold", "cold", "warm"],
                "start_times": [0.0, 1.0, 1.1, 2.0, 3.0, 4.0],
                "load_ms": [0.1, 300.0, 200.0, 20.0, 30.0, 2.0],
            }
        ],
    }
    file = tmp_path / "run.json"
    file.write_text(json.dumps(live))
    links = parse_links(str(file), "--links")
    assert links.loads_ms == {"warm": (2.0,), "cold": (20.0, 30.0), "first": (300.0,)}
    assert (links.disk.ms, links.gpu.ms, links.side_by_side) == (18.0, 2.0, True)
    assert links.steps == StepTimes(), "there are no times of tokens"
    file.write_text(json.dumps(live | {"at_start": None}))
    assert parse_links(str(file), "--links").loads_ms["first"] == ()
    for wrong, said in (
        ({"at_start": {"slots": [1]}}, "at_start.slots[0]: must be a string"),
        ({"runs": [{"tiers": 5}]}, "runs[0]: tiers: must be a list"),
    ):
        file.write_text(json.dumps(live | wrong))
        assert main([*SMALL, "--links", str(file)]) == 2
        assert said in capsys.readouterr().err


def test_the_times_of_steps_are_those_between_the_tokens_of_the_last_run(tmp_path: Path) -> None:
    """A request whose adapter is loaded first begins when that load is over; one without a token failed."""
    starts = [1.0, 3.0, 5.0, 7.0, 9.0]
    run = {
        "adapters": list("abcba"),
        "tiers": ["hot", "cold", "warm", "hot", "hot"],
        "start_times": starts,
        "load_ms": [0.1, 300.0, 200.0, 0.0, 0.0],
        "ttfts": [0.2, 0.5, 0.4, 0.2, None],
        "itls": [[0.1, 0.1], [0.1], [0.1], [0.1], []],
        "input_lens": [16] * 5,
    }
    slower = run | {"itls": [[0.3]] * 5}
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"mode": "live", "tiers_from": "server", "runs": [slower, run]}))
    steps = parse_links(str(file), "--links").steps
    assert steps.ms == {1: pytest.approx(100), 16: pytest.approx(200)}


def test_a_simulation_begins_with_what_was_loaded_and_proves_the_others() -> None:
    trace = build_trace([Request(time_s, name, 1, 1) for time_s, name in [(1, "a"), (2, "b"), (2.05, "b"), (3, "a")]])
    fleet = Fleet(dict.fromkeys("ab", 1), Budget(1), Budget(2), MEASURED, LoadedAdapters(("a",), ("c", "a"), ("a",)))
    run, stalls = simulate_requests(trace, fleet, "lru")
    assert list(run.load_ms) == [0, 200, 0, 7.5]
    assert list(stalls) == pytest.approx([0, 200, 150, 7.5])
    assert list(run.found) == [GPU, DISK, DISK, CPU], "who shares a load did not find its adapter in a slot"


def test_what_was_proved_before_counts_as_requested_once() -> None:
    start = LoadedAdapters(("a",), ("a", "b"), ("a",))
    fleet = Fleet(dict.fromkeys("abc", 1), Budget(1), Budget(2), start=start)
    assert list(simulate(["c", "a"], fleet, "lfu").found) == [DISK, CPU], "memory gave up what nobody had requested"


def test_the_optimum_takes_measured_loads_too_and_has_no_bound_in_milliseconds() -> None:
    trace = build_trace([Request(number, name, 1, 1) for number, name in enumerate("aabcab")])
    for start, opt_ms in (
        (LoadedAdapters(), 200 + 100 + 300 + 3),
        (LoadedAdapters(("a",), ("b", "a"), ("a", "b")), 3 + 200 + 1),
    ):
        fleet = Fleet(dict.fromkeys("abc", 1), Budget(2), Budget(3), MEASURED, start)
        found = simulate_all(trace, fleet, ["lru", "opt"])
        assert found.policies["opt"].miss_cost_ms == pytest.approx(opt_ms)
        assert found.bounds.miss_cost_ms is found.policies["lru"].cost_gap_closed is None
    usual = Fleet(dict.fromkeys("abc", 1), Budget(2), Budget(3), PRESETS["vllm"])
    assert simulate_all(trace, usual, ["lru", "opt"]).bounds.miss_cost_ms is not None


def test_a_server_leaves_its_links_and_the_simulation_its_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    links, result, trace = (str(tmp_path / name) for name in ("links.json", "run.json", "run.trace.jsonl"))
    kept = ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "run.json", "--save-links", links]
    load = ["--num-prompts", "40", "--num-seeds", "1", "--output-len", "2", "--input-len", "8", "--request-rate", "40"]
    with NullServer("--owned-by", "lora-cli", "--load-ms", 30) as server:
        assert main(["serve-bench", "--url", server.url, *load, *kept]) == 0
    capsys.readouterr()
    command = ["serve-bench", "--simulate", "--trace", trace, "--max-loras", "2", "--eviction", "lru,opt"]
    judged = ["--live-result", result, "--fail-if", "lru.hit_ratio_error>0.9"]
    found = simulated(capsys, "--links", links, *judged, command=command)
    assert found["tiers"]["links"].startswith("measured at http://127.0.0.1:")
    assert found["tiers"]["links"].endswith("load times that it reported")
    live, lru = found["live"], found["policies"]["lru"]
    assert list(live["policies"]) == ["lru"]
    assert found["metrics"]["lru.hit_ratio_error"] == abs(lru["hit_ratio"] - live["hit_ratio"])
    assert found["metrics"]["lru.stall_p99_error"] == pytest.approx(
        abs(lru["stall_ms"]["p99"] - live["stall_p99_ms"]) / live["stall_p99_ms"]
    )
    assert main([*command, "--links", links, "--live-result", result]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"live run {result}: hits {live['hit_ratio']:.3f}" in out
    assert f"lru to live hits {lru['hit_ratio']:.3f} (off by " in out
    other = [
        "serve-bench",
        "--simulate",
        "--num-prompts",
        "40",
        "--num-adapters",
        "3",
        "--seed",
        "9",
        "--live-result",
        result,
    ]
    assert main(other) == 2
    assert "the requests of its first seed differ from the simulated ones" in capsys.readouterr().err


def test_a_server_whose_adapters_are_never_warm_leaves_no_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    links = tmp_path / "links.json"
    with NullServer("--load-ms", 5) as server:
        argv = ["serve-bench", "--url", server.url, "--num-prompts", "10", "--num-seeds", "1", "--output-len", "2"]
        assert main([*argv, "--save-links", str(links)]) == 2
    out, err = capsys.readouterr()
    assert "as in vllm bench serve" in out
    assert "error: --save-links: no request found its adapter in" in err
    assert not links.exists()


def live_run(kinds: Sequence[str], ttfts: Sequence[float | None], **more: object) -> dict[str, object]:
    times, adapters = zip(*ARRIVALS, strict=True)
    run: dict[str, object] = {"adapters": adapters, "tiers": kinds, "load_ms": [None] * 4, "ttfts": ttfts}
    run |= {"scheduled_times": times, "start_times": times} | more
    return {"mode": "live", "tiers_from": "inferred", "runs": [run]}


def against(tmp_path: Path, document: object) -> list[str]:
    (tmp_path / "t.jsonl").write_text("".join(f'{{"t": {t}, "adapter": "{name}"}}\n' for t, name in ARRIVALS))
    (tmp_path / "live.json").write_text(json.dumps(document))
    argv = ["serve-bench", "--simulate", "--trace", str(tmp_path / "t.jsonl"), "--eviction", "lru"]
    return [*argv, "--live-result", str(tmp_path / "live.json")]


def test_a_stall_that_no_server_reports_is_the_time_beyond_hot_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = against(tmp_path, live_run(["cold", "cold", "hot", "cold"], [0.11, 0.12, 0.01, None]))
    live = simulated(capsys, command=command)["live"]
    assert (live["hit_ratio"], live["stall_p99_ms"]) == (0.25, pytest.approx(110))
    assert live["policies"]["lru"]["hit_ratio_error"] == 0
    unknown = simulated(capsys, command=against(tmp_path, live_run(["cold", "cold", "later", "cold"], [0.1] * 4)))
    assert unknown["live"]["hit_ratio"] is unknown["live"]["stall_p99_ms"] is None
    assert unknown["metrics"]["lru.stall_p99_error"] is None
    assert main([*command, "--fail-if", "lru.stall_p99_error>0.01"]) == 1


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"mode": "simulate"}, "mode: "),
        (live_run(["hot"], [0.1] * 4), "its columns have different lengths"),
        (live_run(["hot"] * 4, [0.1] * 4, scheduled_times=[0.1, 0.2, 0.3, 0.5]), "differ from the simulated ones"),
        (live_run(["hot"] * 4, [0.1] * 4, adapters=["a", "b", "c", "c"]), "differ from the simulated ones"),
        (live_run(["hot"] * 4, [1e99] * 4), "ttfts[0]: must be from"),
        ({"mode": "live", "runs": []}, "scheduled_times: must be a list"),
    ],
)
def test_a_file_that_is_no_such_run_is_one_message_and_2(
    document: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(against(tmp_path, document)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("error: ") == 1
