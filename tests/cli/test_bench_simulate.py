"""``lora-cli serve-bench --simulate``: policies over the same requests, without torch, an adapter or a device."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.making import write_adapter

SMALL = ["serve-bench", "--simulate", "--num-prompts", "2000", "--num-adapters", "100", "--max-loras", "8"]
MIXED = ["--ranks", "8:.4,16:.4,64:.2"]


def document(capsys: pytest.CaptureFixture[str], *argv: str, command: list[str] = SMALL) -> dict[str, Any]:
    assert main([*command, *argv, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_policy_has_its_numbers_over_the_same_requests(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *MIXED, "--eviction", "lru,fifo,lfu,opt")
    assert (found["schema"], found["mode"]) == ("lora_cli/serve-bench/1", "simulate")
    assert (found["num_prompts"], found["adapters"], found["request_rate"]) == (2_000, 100, "inf")
    policies = found["policies"]
    assert list(policies) == ["lru", "fifo", "lfu", "opt"]
    for one in policies.values():
        assert one["requests"] == sum(one["hits_by_tier"].values()) == 2_000
        assert one["hit_ratio"] == one["hits"] / 2_000
        assert one["miss_cost_ms"] >= found["bounds"]["miss_cost_ms"]
        assert one["stall_ms"]["p50"] <= one["stall_ms"]["p99"] <= one["stall_ms"]["max"]
        assert one["stalled"] == 2_000 - one["hits"]
    assert (policies["lru"]["gap_closed"], policies["opt"]["gap_closed"]) == (0, 1)
    assert 0 < policies["lfu"]["gap_closed"] < 1
    assert [one["kind"] for one in policies.values()] == ["online"] * 3 + ["exact"]
    assert found["tiers"]["gpu"]["load"] == {"ms": 1.0, "gb_per_s": 25.0, "origin": "default"}


def test_the_same_command_has_the_same_result_to_the_last_byte(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SMALL, *MIXED, "--request-rate", "30", "--burstiness", ".5", "--sessions", "16,4", "--format", "json"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*argv, "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(("form", "drawn_by"), [((), {"rich"}), (("--format", "json"), set[str]())])
def test_it_needs_neither_torch_nor_numpy(form: tuple[str, ...], drawn_by: set[str]) -> None:
    code = "import sys\nfrom lora_cli.cli.main import main\nmain(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *SMALL, *form], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "numpy", "httpx2", "rich", "yaml"} & set(done.stderr.split()) == drawn_by
    assert done.stdout.startswith("{" if form else "policy ")


def test_the_table_is_read_in_60_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main([*SMALL, *MIXED]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].split() == ["policy", "hits", "closed", "disk", "ms/req", "ms", "closed", "p99", "ms"]
    assert [line.split()[0] for line in lines[1:4]] == ["lru", "lfu", "opt"]


def test_only_what_the_table_has_is_explained_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SMALL) == 0
    known = explained(capsys.readouterr().out)
    assert known == ["hits", "closed", "disk", "ms/req", "ms closed", "p99 ms", "opt"]
    assert main([*SMALL, "--eviction", "lfu"]) == 0
    assert explained(capsys.readouterr().out) == ["hits", "disk", "ms/req", "p99 ms"]
    assert "opt" in document(capsys, "--eviction", "lfu")["definitions"]


def explained(out: str) -> list[str]:
    """The words at the begin of the last paragraph's lines."""
    last = out.rstrip().rpartition("\n\n")[2]
    return [line.partition("  ")[0] for line in last.splitlines() if not line.startswith(" ")]


def test_a_saved_trace_is_the_same_run_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    argv = ["--request-rate", "40", "--burstiness", ".3", "--drift", "20,500", "--input-len", "8-512", *MIXED]
    first = document(capsys, *argv, "--save-trace", str(file))
    again = document(capsys, "--trace", str(file), "--max-loras", "8", command=["serve-bench", "--simulate", *MIXED])
    assert again["policies"] == first["policies"]
    assert again["total_input_tokens"] == first["total_input_tokens"]
    assert again["request_rate"] == pytest.approx(40)
    assert hashlib.sha256(file.read_bytes()).hexdigest()[:12] == "74d910e0a416"


def test_bytes_bind_instead_of_numbers_and_the_best_is_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *MIXED, "--max-gpu-bytes", "2GiB", "--max-loras", "100")
    best = found["policies"].pop("opt")
    assert (best["kind"], best["hits_by_tier"], best["stall_ms"]) == ("bound", {"gpu": best["hits"]}, {})
    assert all(one["hits"] <= best["hits"] for one in found["policies"].values())
    assert found["tiers"]["gpu"]["max_bytes"] == 2 << 30
    assert main([*SMALL, *MIXED, "--max-gpu-bytes", "2GiB"]) == 0
    assert "opt     <=" in capsys.readouterr().out


def test_the_rate_of_a_ramp_is_that_of_its_requests(capsys: pytest.CaptureFixture[str]) -> None:
    ramp = ["--ramp-up-strategy", "linear", "--ramp-up-start-rps", "1", "--ramp-up-end-rps", "20"]
    assert (
        main(["serve-bench", "--simulate", "--num-adapters", "20", "--num-prompts", "200", *ramp, "--format", "json"])
        == 0
    )
    assert 1 < json.loads(capsys.readouterr().out)["request_rate"] < 20


def test_loads_cost_what_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--disk-link", "100", "--gpu-link", "10", "--eviction", "lru")
    hits = found["policies"]["lru"]["hits_by_tier"]
    assert found["policies"]["lru"]["miss_cost_ms"] == hits["cpu"] * 10 + hits["disk"] * 110
    assert found["tiers"]["cpu"]["load"] == {"ms": 100.0, "gb_per_s": None, "origin": "given"}


def test_weights_of_a_file_name_the_adapters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text('{"sql": 8, "chat": 1, "mail": 1}')
    argv = ["--popularity", str(tmp_path / "weights.json"), "--max-loras", "1"]
    found = document(capsys, *argv, command=["serve-bench", "--simulate"])
    assert found["adapters"] == 3
    assert found["policies"]["opt"]["hit_ratio"] > 0.6


def test_the_adapters_of_a_set_have_their_own_sizes_and_the_engine_its_slots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rank in (("small", 4), ("large", 16)):
        write_adapter(tmp_path / name, r=rank)
    (tmp_path / "set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nengine: {name: vllm, max_loras: 1, max_cpu_loras: 2}\n"
        "adapters: [{name: small, source: ./small}, {name: large, source: ./large}]\n"
    )
    command = ["serve-bench", "--simulate", "--num-prompts", "500", "-f", str(tmp_path / "set.yaml")]
    found = document(capsys, command=command)
    assert found["adapters"] == 2
    tiers, rank_bytes = found["tiers"], 2 * (64 + 64)
    assert (tiers["largest_adapter_bytes"], tiers["adapter_bytes"]) == (16 * rank_bytes, 20 * rank_bytes)
    assert (tiers["gpu"]["places"], tiers["cpu"]["places"]) == (1, 2)
    assert document(capsys, "small", command=command)["adapters"] == 1


@pytest.mark.parametrize(
    ("argv", "message", "code"),
    [
        (["./nowhere"], "there is no folder", 3),
        (["./nowhere", "--ranks", "8"], "--ranks is for synthetic adapters", 2),
        (["--base", "b"], "--base is not for --simulate", 2),
        (["--device", "cpu"], "--device is not for --simulate", 2),
        (["--device", ""], "--device is not for --simulate", 2),
        (["--eviction", "lru,lfuu"], "unknown policy lfuu", 2),
        (["--trace", "nowhere.jsonl"], "nowhere.jsonl: trace not found", 3),
        (["--trace", "azure-con"], "azure-con: trace not found\nhint: did you mean azure-conv?", 3),
        (["--trace", "azure-conv", "--burstiness", "2"], "--burstiness and --trace cannot be used together", 2),
        (["--trace", "good.jsonl", "--input-len", "5"], "--input-len and --trace cannot be used together", 2),
        (["--trace", "bad.jsonl"], "bad.jsonl: line 2: adapter: must be a string, not an integer: 7", 2),
        (["--trace", "bad.jsonl", "--num-prompts", "9"], "--num-prompts and --trace cannot be used together", 2),
        (["--trace", "bad.jsonl", "--scan", "9"], "--scan and --trace cannot be used together", 2),
        (["--trace", "good.jsonl", "--num-adapters", "9"], "--num-adapters is 9, but the workload names 1", 2),
        (["--max-loras", "8", "--max-cpu-loras", "4"], "--max-cpu-loras is 4, less than max_loras, which is 8", 2),
        (["--max-gpu-bytes", "1MiB"], "but the largest adapter has 83886080 bytes", 2),
        (["--max-cpu-bytes", "many"], "--max-cpu-bytes: 'many' is not a size", 2),
        (["--bytes-per-rank", "0"], "--bytes-per-rank 0: must be above 0", 2),
        (["--request-rate", "0"], "--request-rate 0: must be a number above 0, or inf", 2),
        (["--drift", "20", "--scan", "5"], "--drift and --scan cannot be used together", 2),
        (["--save-trace", "no/where.jsonl"], "the folder does not exist", 6),
    ],
)
def test_what_is_wrong_is_said_once(
    argv: list[str], message: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"adapter": "a"}\n{"adapter": 7}\n')
    Path("good.jsonl").write_text('{"adapter": "a"}\n')
    assert main(["serve-bench", "--simulate", *argv]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("error: ")) == ("", 1)


def test_what_is_only_simulated_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-bench", "./a", "--base", "b", "--disk-link", "5"]) == 2
    assert "--disk-link is for --simulate only" in capsys.readouterr().err


@pytest.mark.parametrize(("goal", "seed"), [(0.9, "0"), (0.8, "1")])
def test_the_tiers_of_a_plan_meet_its_goal(goal: float, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--plan", f"hit_ratio>={goal}", "--num-adapters", "50", "--num-prompts", "2000", "--seed", seed]
    policies = document(capsys, *argv, command=["serve-bench", "--simulate"])["plan"]["policies"]
    assert set(policies) >= {"lru", "lfu"}
    assert all(answer["hit_ratio"] >= goal for one in policies.values() for answer in one["answers"])


def test_the_steps_of_an_engine_have_their_latencies(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--request-rate", "50", "--step", "10,100", "--links", "vllm"]
    found = document(capsys, *argv)
    assert list(found["policies"]) == ["lru", "lfu"]
    assert found["workload"]["step"] == "10,100"
    lru = found["policies"]["lru"]
    assert lru["requests"] == sum(lru["hits_by_tier"].values()) == 2_000
    assert lru["engine"]["adapters_per_step"] <= 8
    assert 0 < lru["engine"]["load_share"] < 1
    assert found["metrics"]["lru.ttft_p99_ms"] == lru["engine"]["ttft_ms"]["p99"] < lru["engine"]["e2el_ms"]["p99"]
    assert "load_share" in found["definitions"]
    assert main([*SMALL, *argv, "--eviction", "lru", "--fail-if", "ttft_p99_ms>1"]) == 1
    assert "lru steps" in capsys.readouterr().out
    wider = document(capsys, *argv, "--max-num-seqs", "1")["policies"]["lru"]["engine"]
    assert wider["requests_per_step"] == 1.0
    assert wider["ttft_ms"]["p50"] > lru["engine"]["ttft_ms"]["p50"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--step", "1,1", "--eviction", "lru,opt"], "--step cannot use opt"),
        (["--step", "1,1", "--max-gpu-bytes", "1GiB"], "--max-gpu-bytes is not for --step"),
        (["--max-num-seqs", "4"], "--max-num-seqs is for --step"),
        (["--step", "fast"], "--step fast: must be"),
    ],
)
def test_what_no_engine_has_is_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *argv]) == 2
    assert said in capsys.readouterr().err


SWEEP = ["serve-bench", "--simulate", "--num-prompts", "2000", "--num-adapters", "50", "--request-rate", "20"]


def test_a_sweep_has_what_each_size_alone_has(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--sweep", "max-loras=2,8", "--sweep", "max-cpu-loras=8,16", "--fail-if", "opt.8x16.hit_ratio>0.99"]
    found = document(capsys, "--eviction", "lru,opt", *sizes, command=SWEEP)
    assert [(one["slots"], one["places"]) for one in found["plan"]["policies"]["lru"]["answers"]] == [
        (2, 8), (2, 16), (8, 8), (8, 16),
    ]  # fmt: skip
    for slots, places in ((2, 8), (8, 16)):
        limits = ["--max-loras", str(slots), "--max-cpu-loras", str(places)]
        alone = document(capsys, "--eviction", "lru,opt", *limits, command=SWEEP)["metrics"]
        for metric in ("hit_ratio", "miss_cost_ms", "stall_p99_ms"):
            for policy in ("lru", "opt"):
                assert found["metrics"][f"{policy}.{slots}x{places}.{metric}"] == alone[f"{policy}.{metric}"]


def test_a_sweep_is_a_table_with_a_row_for_each_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*SWEEP, "--eviction", "lru", "--sweep", "max-loras=2,40"]
    assert main(words) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:3]]
    assert [(row[0], row[1], row[3]) for row in rows] == [("lru", "2", "32"), ("lru", "40", "40")]
    assert main([*words, "--format", "html", "-o", str(tmp_path / "page.html")]) == 0
    assert "Each policy with each size" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sweep", "slots=8"], "--sweep slots=8: must be max-loras or max-cpu-loras, and numbers"),
        (["--sweep", "max-loras=8,x"], "--sweep max-loras=8,x: must be max-loras or max-cpu-loras, and numbers"),
        (["--sweep", "max-loras=0"], "must have 1 to 100 numbers above 0"),
        (["--sweep", "max-loras=8", "--sweep", "max-loras=9"], "--sweep max-loras is given twice"),
        (["--sweep", "max-loras=8", "--max-loras", "9"], "--max-loras and --sweep max-loras cannot be used together"),
        (["--sweep", "max-loras=8", "--plan", "hit_ratio>=0.5"], "--plan is not for --sweep"),
        (["--sweep", "max-loras=8", "--step", "12,50"], "--step is not for --sweep"),
        (["--sweep", "max-loras=8", "--max-cpu-loras", "4"], "--max-cpu-loras is 4, less than max_loras, which is 8"),
        (["--sweep", "max-loras=8", "--sweep", "max-cpu-loras=4"], "--max-cpu-loras is 4, less than max_loras"),
        (["--sweep", "max-loras=8", "--fail-if", "lru.9x32.hit_ratio<0.5"], "unknown metric lru.9x32.hit_ratio"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_exit_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SWEEP, *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_variable_that_is_for_other_commands_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("BASE", "RAY", "POLICY"):
        monkeypatch.setenv(f"LORA_CLI_{name}", "none")
    assert main(["serve-bench", "--url", "http://127.0.0.1:1"]) == 7
    assert "is not for" not in capsys.readouterr().err
    monkeypatch.delenv("LORA_CLI_RAY")
    assert main(["serve-bench", "--simulate", "--num-prompts", "20", "--eviction", "lru"]) == 0
