"""``serve-bench`` without a URL: a server of our own for as long as it is measured, which outlives nobody."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lora_cli.bench.simulator import parse_ranks
from lora_cli.cli.main import main
from tests.cli.test_bench_results import valid
from tests.making import llama_modules, write_adapter, write_base_config
from tests.runtime.families import save_model
from tests.runtime.test_transformers_model import write_tokenizer
from tests.slow import slowly

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
MANIFEST = """\
apiVersion: lora-cli/v1
kind: AdapterSet
base: base
engine: {name: vllm, max_loras: 1, max_cpu_loras: 2, max_lora_rank: 8}
adapters:
  - {name: first, source: a0}
  - {name: second, source: a1}
  - {name: third, source: a2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, three adapters on it, and a manifest of one slot and two places in memory."""
    folder = tmp_path_factory.mktemp("here")
    save_model(folder / "base", "llama")
    write_tokenizer(folder / "base")
    for number in range(3):
        write_adapter(folder / f"a{number}", modules=llama_modules(), r=8, lora_alpha=64, seed=number)
    (folder / "set.yaml").write_text(MANIFEST)
    return folder


def bench(folder: Path, *argv: str) -> list[str]:
    words = ["--device", "cpu", "--cache-dir", str(folder / "cache"), "--input-len", "8-20"]
    return ["serve-bench", *words, "--output-len", "4", *argv]


def test_a_manifest_is_served_and_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["-f", str(folder / "set.yaml"), "--num-prompts", "12", "--request-rate", "60"]
    assert main([*bench(folder, *argv, "--goodput", "ttft:60000"), "--format", "json"]) == 0
    found = valid(capsys.readouterr().out)
    assert (found["mode"], found["completed"], found["tiers_from"]) == ("live", 12, "server")
    assert found["environment"]["url"] == "warm --serve --forward model"
    assert (found["environment"]["max_loras"], found["environment"]["max_cpu_loras"]) == ("1", "2")
    assert set(found["per_adapter"]) == {"first", "second", "third"}
    assert found["hits"]["hot"] > 0
    assert found["hits"]["later"] == 0
    assert found["metrics"]["slo_attainment"] == 1


@pytest.mark.parametrize("named", slowly(("weightless", "weightless/config.json"), "weightless"))
def test_adapters_that_nobody_trained_are_served_too_and_a_base_of_a_config_alone_gets_random_weights(
    named: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those of a higher rank than the first, which alone is there when the slots are made. Nothing is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write_base_config(folder / "weightless")
    names, ranks = [f"a{number}" for number in range(4)], parse_ranks("2,32")
    seed = next(seed for seed in range(100) if list(ranks.of(names, seed).values()) == [2, 2, 32, 32])
    argv = ["--num-adapters", "4", "--ranks", "2,32", "--base", str(folder / named), "--seed", str(seed)]
    argv += ["--max-loras", "1", "--max-cpu-loras", "1", "--num-prompts", "10", "--popularity", "uniform"]
    assert main([*bench(folder, *argv), "--format", "json"]) == 0
    found = valid(capsys.readouterr().out)
    assert (found["completed"], found["adapters"]) == (10, 4)
    assert (found["mode"], found["environment"]["weights"]) == ("live", "dummy")
    assert list(tmp_path.iterdir()) == []


def test_one_bad_adapter_stops_nothing_and_without_times_one_client_asks_when_it_is_answered(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(folder / "broken", modules=llama_modules())
    (folder / "broken" / "adapter_model.safetensors").unlink()
    (folder / "bad.yaml").write_text(
        MANIFEST + "  - {name: broken, source: ./broken}\n  - {name: gone, source: ./gone}\n"
    )
    argv = ["-f", str(folder / "bad.yaml"), "--num-prompts", "10"]
    assert main([*bench(folder, *argv), "--format", "json"]) == 3
    out, err = capsys.readouterr()
    found = valid(out)
    assert (found["completed"], found["failed"], set(found["failures"])) == (10, 0, {"broken", "gone"})
    assert "there is no folder" in found["failures"]["gone"]
    assert "error: broken: LC101" in err
    # Else the last request would wait for all others, from the time that it was to be sent.
    assert found["max_concurrency"] == found["max_concurrent_requests"] == 1
    run = found["requests"]
    assert run["scheduled_times"] == pytest.approx(run["start_times"], abs=0.05)
    latest = [start + took for start, took in zip(run["start_times"], run["latencies"], strict=True)]
    assert all(start >= end for start, end in zip(run["start_times"][1:], latest, strict=False))


def test_where_no_adapter_can_be_served_it_ends_with_the_largest_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(folder / "empty", modules=llama_modules())
    (folder / "empty" / "adapter_model.safetensors").unlink()
    refs = [str(folder / "empty"), str(folder / "gone"), "--base", str(folder / "base")]
    assert main(bench(folder, *refs)) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("error: ")) == ("", 1)
    assert "1 more cannot be served either" in err
    assert main(bench(folder, str(folder / "gone"), "--base", str(folder / "base"))) == 3
    assert "hint: check the spelling" in capsys.readouterr().err


def test_what_keeps_it_from_serving_is_one_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server finds that out, in its own process."""
    write_base_config(folder / "damaged")
    (folder / "damaged" / "model.safetensors").write_bytes(b"short")
    assert main(bench(folder, str(folder / "a0"), "--base", str(folder / "damaged"))) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "model.safetensors" in err
    assert main(bench(folder, str(folder / "a0"), "--base", str(folder / "base"), "--lora-modules", "a0")) == 2
    assert "--lora-modules is for --url" in capsys.readouterr().err


def running(folder: Path) -> "subprocess.Popen[str]":
    """One that has begun, with hundreds of seconds to go."""
    argv = bench(folder, "-f", str(folder / "set.yaml"), "--num-prompts", "5000", "--request-rate", "20")
    trace = folder / "begun.jsonl"
    trace.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_cli", *argv, "--format", "json", "--save-trace", str(trace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + PATIENCE_S
    while not trace.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return process


def children(pid: int) -> list[int]:
    """All below a process, as Linux lists them."""
    try:
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return own + [below for child in own for below in children(child)]


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="it looks for processes as Linux lists them")
@pytest.mark.parametrize("number", slowly((signal.SIGINT, signal.SIGKILL), signal.SIGKILL))
def test_the_server_ends_with_whoever_measures_it(number: signal.Signals, folder: Path) -> None:
    """After Ctrl-C there is a result; after a kill there is nothing, and no server either."""
    with running(folder) as process:
        time.sleep(1)
        servers = children(process.pid)
        assert servers
        if number is signal.SIGINT:  # as a terminal does it: to all who did not leave the group
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE_S)
    if number is signal.SIGINT:
        assert process.returncode == 130, err
        found = json.loads(out)
        assert found["failed"] == 0
        assert f"interrupted after {found['num_prompts']} of 5000 requests" in err
    assert gone(servers)
