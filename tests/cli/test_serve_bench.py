"""``lora-cli serve-bench --forward modules`` over the real warm process, on adapters of a tiny model."""

import json
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lora_cli.bench.popularity import parse_popularity
from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base_config
from tests.requested import requested

pytestmark = pytest.mark.usefixtures("copied_processes")

MANIFEST = """\
apiVersion: lora-cli/v1
kind: AdapterSet
base: base
engine: {name: vllm, max_loras: 1, max_cpu_loras: 2, max_lora_rank: 8}
adapters:
  - {name: first, source: a0}
  - {name: broken, source: broken}
  - {name: second, source: a1}
  - {name: gone, source: ./gone}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base, four good adapters ``a0`` to ``a3``, one without weights, and a manifest."""
    write_base_config(tmp_path / "base")
    for i in range(4):
        write_adapter(tmp_path / f"a{i}", modules=llama_modules(), seed=i)
    write_adapter(tmp_path / "broken", modules=llama_modules())
    (tmp_path / "broken" / "adapter_model.safetensors").unlink()
    (tmp_path / "set.yaml").write_text(MANIFEST)
    return tmp_path


def bench(folder: Path, *argv: str) -> list[str]:
    return ["serve-bench", *argv, "--forward", "modules", "--device", "cpu", "--cache-dir", str(folder / "cache")]


def replay(trace: Sequence[str], places: Mapping[str, int]) -> tuple[Counter[str], Counter[str]]:
    """Where least-recently-used tiers would find each request, and what they would evict: memory is asked on a miss."""
    tiers: dict[str, OrderedDict[str, None]] = {"gpu": OrderedDict(), "cpu": OrderedDict()}
    hits, evicted = Counter[str](), Counter[str]()
    for adapter in trace:
        found = next((tier for tier, held in tiers.items() if adapter in held), "disk")
        hits[found] += 1
        for tier in ("gpu",) if found == "gpu" else ("gpu", "cpu"):
            held = tiers[tier]
            held[adapter] = None
            held.move_to_end(adapter)
            if len(held) > places[tier]:
                held.popitem(last=False)
                evicted[tier] += 1
    return hits, evicted


@pytest.mark.slow
def test_the_warm_process_finds_each_request_where_a_replay_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refs = [str(folder / f"a{i}") for i in range(4)]
    limits = ["--max-loras", "1", "--max-cpu-loras", "2", "--num-prompts", "60", "--seed", "3"]
    more = ["--eviction", "lru", "--popularity", "zipf:0.8", "--format", "json"]
    assert main(bench(folder, *refs, "--base", str(folder / "base"), *limits, *more)) == 0

    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    hits, evicted = replay(requested(refs, parse_popularity("zipf:0.8"), 60, 3), {"gpu": 1, "cpu": 2})
    assert min(hits.values()) > 0
    assert result["schema"] == "lora_cli/serve-bench/1"
    assert result["hits"] == dict(hits)
    assert result["evictions"] == dict(evicted)
    assert {tier: len(ms) for tier, ms in result["latency_ms"].items()} == dict(hits)
    assert all(value > 0 for values in result["latency_ms"].values() for value in values)
    assert (result["requests"], result["adapters"], result["seed"], result["failures"]) == (60, 4, 3, {})
    assert result["environment"]["device"] == "cpu"
    assert result["environment"]["popularity"] == "zipf:0.8"


@pytest.mark.parametrize(
    ("policy", "workload"),
    [
        pytest.param("lru", ["--sessions", "3,4"], marks=pytest.mark.slow),
        ("lfu", ["--popularity", "zipf:0.6"]),
    ],
)
def test_a_simulation_finds_each_request_where_the_warm_process_does(
    policy: str, workload: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exactly, one request after the other; what its policy is told of loads that it times itself cannot be."""
    refs, trace = [str(folder / f"a{i}") for i in range(4)], str(folder / "trace.jsonl")
    limits = ["--max-loras", "1", "--max-cpu-loras", "2", "--eviction", policy, "--format", "json"]
    more = ["--num-prompts", "80", "--seed", "5", *workload, "--save-trace", trace]
    assert main(bench(folder, *refs, "--base", str(folder / "base"), *limits, *more)) == 0
    measured = json.loads(capsys.readouterr().out)
    assert main(["serve-bench", "--simulate", "--trace", trace, *limits]) == 0
    simulated = json.loads(capsys.readouterr().out)["policies"][policy]
    assert min(measured["hits"].values()) > 0
    assert simulated["hits_by_tier"] == measured["hits"]
    assert simulated["evictions"] == measured["evictions"]


@pytest.mark.slow
def test_a_trace_is_replayed_over_the_adapters_that_it_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = folder / "trace.jsonl"
    trace.write_text("".join(json.dumps({"adapter": name}) + "\n" for name in ("second", "first", "second")))
    argv = bench(folder, "-f", str(folder / "set.yaml"), "--trace", str(trace), "--format", "json")
    assert main(argv) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["hits"]) == (3, {"gpu": 0, "cpu": 1, "disk": 2})
    trace.write_text('{"adapter": "third"}')
    assert main(argv) == 2
    assert "third is not one of the 4 measured adapters" in capsys.readouterr().err


@pytest.mark.slow
def test_adapters_that_nobody_trained_are_measured_and_leave_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without REFs, on a base's config alone; the ranks are those of a simulation of the same seed."""
    (folder / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    shape = ["--num-adapters", "8", "--ranks", "2,4", "--num-prompts", "60", "--max-loras", "2", "--max-cpu-loras", "3"]
    shape += ["--eviction", "lru", "--format", "json"]
    assert main(bench(folder, "--base", str(folder / "base"), *shape)) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["adapters"], measured["failures"], measured["completed"]) == (8, {}, 60)
    assert not (folder / "cache").exists()
    assert list((folder / "temporary").iterdir()) == []
    assert main(["serve-bench", "--simulate", *shape]) == 0
    simulated = json.loads(capsys.readouterr().out)["policies"]["lru"]
    assert simulated["hits_by_tier"] == measured["hits"]


@pytest.mark.slow
def test_one_bad_adapter_stops_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = bench(folder, "-f", str(folder / "set.yaml"), "--num-prompts", "40", "--popularity", "round-robin")
    assert main(argv) == 3

    out = " ".join(capsys.readouterr().out.split())
    assert "40 requests over 4 adapters, seed 0" in out
    assert "max_loras 1, max_cpu_loras 2" in out
    assert "hits gpu 0 (0%), cpu 18 (90%), disk 2 (10%)" in out
    assert "evictions gpu 19, cpu 0" in out
    assert "broken: " in out
    assert "gone: " in out


def test_when_no_adapter_can_be_served_there_is_still_a_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = bench(folder, str(folder / "broken"), "--base", str(folder / "base"), "--format", "json")
    assert main(argv) == 1

    result = json.loads(capsys.readouterr().out)
    assert result["hits"] == {"gpu": 0, "cpu": 0, "disk": 0}
    assert list(result["failures"]) == [str(folder / "broken")]


def test_a_rank_beyond_the_limit_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = bench(folder, str(folder / "a0"), "--base", str(folder / "base"), "--max-lora-rank", "2")
    assert main(argv) == 1
    assert f"{folder / 'a0'}: " in "".join(capsys.readouterr().out.split("\n"))


@pytest.mark.parametrize(
    ("policy", "adapter", "message", "code"),
    [
        ("policy: {require_pinned: true}", "", "policy require_pinned: ", 1),
        ("policy: {max_bytes: 100}", "", "100", 1),
        ("policy: {deny_sources: [a0]}", "", "", 1),
        ("", f", sha256: {'0' * 64}", "the manifest has sha256 ", 5),
    ],
)
def test_the_policy_and_digest_of_a_manifest_are_held_to(
    policy: str, adapter: str, message: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: base\n{policy}\n"
    (folder / "set.yaml").write_text(
        f"{text}adapters: [{{name: first, source: ./a0{adapter}}}]\n".replace("[a0]", "[./a0]")
    )
    assert main(bench(folder, "-f", str(folder / "set.yaml"), "--format", "json")) == code
    assert message in json.loads(capsys.readouterr().out)["failures"]["first"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--base", "b"],
            "there is nothing to measure\nhint: add adapters, or an adapter set with -f; --url measures",
        ),
        (["./a", "--base", "b", "--popularity", "zipp:1"], "unknown family"),
        (["./a", "--base", "b", "--device", "tpu"], "--device must be auto, cpu or cuda, not tpu"),
        (
            ["./a", "--base", "b", "--max-loras", "4", "--max-cpu-loras", "2"],
            "--max-cpu-loras is 2, less than max_loras",
        ),
        (["./a", "--base", "b", "--num-prompts", "0"], "num-prompts"),
        (["./a", "--base", "b", "--eviction", "lru,opt"], "lfu\nhint: --simulate compares several, and opt"),
        (["./a", "--base", "b", "--eviction", "opt"], "lfu\nhint: --simulate compares several, and opt"),
        (
            ["./a", "--base", "b", "--eviction", "lruu"],
            "lru, lfu\nhint: did you mean lru",
        ),
        (["./a", "--base", "b", "--request-rate", "5"], "--request-rate cannot be used with --forward modules"),
        (["./a", "--base", "b", "--ranks", "8"], "--ranks is for --num-adapters and --simulate"),
        (["./a", "--base", "b", "--num-adapters", "5"], "REFs and --num-adapters cannot be used together"),
        (["--num-adapters", "5"], "serve-bench needs a base model"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    argv: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(["serve-bench", *argv, "--forward", "modules"]) == 2
    assert message in capsys.readouterr().err


def test_a_base_that_is_not_there_ends_with_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(bench(folder, str(folder / "a0"), "--base", str(folder / "nothing"))) == 3
    assert "nothing" in capsys.readouterr().err
