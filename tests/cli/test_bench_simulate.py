"""``lora-cli serve-bench --simulate``: policies over the same requests, without torch, an adapter or a device."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main

SMALL = ["serve-bench", "--simulate", "--num-prompts", "2000", "--num-adapters", "100", "--max-loras", "8"]


def document(capsys: pytest.CaptureFixture[str], *argv: str, command: list[str] = SMALL) -> dict[str, Any]:
    assert main([*command, *argv, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_policy_has_its_numbers_over_the_same_requests(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--eviction", "lru,fifo,lfu,opt")
    assert (found["schema"], found["mode"]) == ("lora_cli/serve-bench/1", "simulate")
    assert (found["num_prompts"], found["adapters"], found["request_rate"]) == (2_000, 100, "inf")
    policies = found["policies"]
    assert list(policies) == ["lru", "fifo", "lfu", "opt"]
    for one in policies.values():
        assert one["requests"] == sum(one["hits_by_tier"].values()) == 2_000
        assert one["hit_ratio"] == one["hits"] / 2_000
    assert (policies["lru"]["gap_closed"], policies["opt"]["gap_closed"]) == (0, 1)
    assert 0 < policies["lfu"]["gap_closed"] < 1
    assert [one["kind"] for one in policies.values()] == ["online"] * 3 + ["exact"]
    assert found["tiers"] == {"gpu": {"places": 8}, "cpu": {"places": 32}}


def test_the_same_command_has_the_same_result_to_the_last_byte(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SMALL, "--request-rate", "30", "--burstiness", ".5", "--format", "json"]
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
    assert main(SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].split() == ["policy", "hits", "closed", "disk"]
    assert [line.split()[0] for line in lines[1:4]] == ["lru", "lfu", "opt"]


def test_only_what_the_table_has_is_explained_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SMALL) == 0
    known = explained(capsys.readouterr().out)
    assert known == ["hits", "closed", "disk", "opt"]
    assert main([*SMALL, "--eviction", "lfu"]) == 0
    assert explained(capsys.readouterr().out) == ["hits", "disk"]
    assert "opt" in document(capsys, "--eviction", "lfu")["definitions"]


def explained(out: str) -> list[str]:
    """The words at the begin of the last paragraph's lines."""
    last = out.rstrip().rpartition("\n\n")[2]
    return [line.partition("  ")[0] for line in last.splitlines() if not line.startswith(" ")]


def test_a_saved_trace_is_the_same_run_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    argv = ["--request-rate", "40", "--burstiness", ".3", "--input-len", "8-512"]
    first = document(capsys, *argv, "--save-trace", str(file))
    again = document(capsys, "--trace", str(file), "--max-loras", "8", command=["serve-bench", "--simulate"])
    assert again["policies"] == first["policies"]
    assert again["total_input_tokens"] == first["total_input_tokens"]
    assert again["request_rate"] == pytest.approx(40)
    assert hashlib.sha256(file.read_bytes()).hexdigest()[:12] == "09f5a0880579"


def test_weights_of_a_file_name_the_adapters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text('{"sql": 8, "chat": 1, "mail": 1}')
    argv = ["--popularity", str(tmp_path / "weights.json"), "--max-loras", "1"]
    found = document(capsys, *argv, command=["serve-bench", "--simulate"])
    assert found["adapters"] == 3
    assert found["policies"]["opt"]["hit_ratio"] > 0.6


def test_the_adapters_of_a_set_have_the_slots_of_its_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nengine: {name: vllm, max_loras: 1, max_cpu_loras: 2}\n"
        "adapters: [{name: small, source: ./small}, {name: large, source: ./large}]\n"
    )
    command = ["serve-bench", "--simulate", "--num-prompts", "500", "-f", str(tmp_path / "set.yaml")]
    found = document(capsys, command=command)
    assert found["adapters"] == 2
    assert found["tiers"] == {"gpu": {"places": 1}, "cpu": {"places": 2}}
    assert document(capsys, "small", command=command)["adapters"] == 1


@pytest.mark.parametrize(
    ("argv", "message", "code"),
    [
        (["./a", "--num-adapters", "8"], "--num-adapters is for synthetic adapters", 2),
        (["--ranks", "8"], "--ranks is not for --simulate", 2),
        (["--base", "b"], "--base is not for --simulate", 2),
        (["--device", "cpu"], "--device is not for --simulate", 2),
        (["--device", ""], "--device is not for --simulate", 2),
        (["--eviction", "lru,lfuu"], "unknown policy lfuu", 2),
        (["--trace", "nowhere.jsonl"], "nowhere.jsonl: trace not found", 3),
        (["--trace", "good.jsonl", "--input-len", "5"], "--input-len and --trace cannot be used together", 2),
        (["--trace", "bad.jsonl"], "bad.jsonl: line 2: adapter: must be a string, not an integer: 7", 2),
        (["--trace", "bad.jsonl", "--num-prompts", "9"], "--num-prompts and --trace cannot be used together", 2),
        (["--trace", "good.jsonl", "--num-adapters", "9"], "--num-adapters is 9, but the workload names 1", 2),
        (["--max-loras", "8", "--max-cpu-loras", "4"], "--max-cpu-loras is 4, less than max_loras, which is 8", 2),
        (["--request-rate", "0"], "--request-rate 0: must be a number above 0, or inf", 2),
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


def test_a_variable_that_is_for_other_commands_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("BASE", "POLICY"):
        monkeypatch.setenv(f"LORA_CLI_{name}", "none")
    assert main(["serve-bench", "--url", "http://127.0.0.1:1"]) == 7
    assert "is not for" not in capsys.readouterr().err
    assert main(["serve-bench", "--simulate", "--num-prompts", "20", "--eviction", "lru"]) == 0
