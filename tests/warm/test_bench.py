"""``serve-bench`` of a real server of a tiny model: its tiers, its errors, and our own while it is measured."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.attacks.besieged import alive, children_of
from tests.making import llama_modules, write_adapter
from tests.warm.families import save_model
from tests.warm.running import Running
from tests.warm.tokenizer import write_tokenizer

pytestmark = pytest.mark.slow

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
    """A tiny model, adapters on it, and a manifest of one slot and two places in memory."""
    folder = tmp_path_factory.mktemp("measured")
    save_model(folder / "base", "llama")
    write_tokenizer(folder / "base")
    for number in range(4):
        write_adapter(folder / f"a{number}", modules=llama_modules(), r=4, lora_alpha=64, seed=number)
    (folder / "set.yaml").write_text(MANIFEST)
    return folder


def bench(folder: Path, *argv: str) -> list[str]:
    return ["serve-bench", "--cache-dir", str(folder / "cache"), "--input-len", "8-20", "--output-len", "4", *argv]


def document(capsys: pytest.CaptureFixture[str], argv: list[str], code: int = 0) -> dict[str, Any]:
    assert main([*argv, "--format", "json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_each_request_is_of_the_tier_that_the_server_counts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other: what we say was hot, warm and cold is what the server's own books say."""
    refs = [folder / f"a{number}" for number in range(4)]
    limits = ["--max-loras", 1, "--max-cpu-loras", 2, "--forward", "model"]
    with Running(folder, *refs, "--base", folder / "base", *limits, token="secret") as server:
        server.until_ready()

        def counted() -> dict[str, int]:
            tiers: dict[str, Any] = server.status()["tiers"]
            return {"hot": tiers["gpu"]["hits"], "warm": tiers["cpu"]["hits"], "cold": tiers["cpu"]["loads"]}

        for name in (f"a{number}" for number in range(4)):  # the first time it is proved too, which is one more hit
            assert server.post("/v1/completions", model=name, prompt=[5], max_tokens=1).status_code == 200
        before = counted()
        url = ["--url", f"http://127.0.0.1:{server.port}"]
        monkeypatch.setenv("LORA_CLI_API_KEY", "wrong")
        assert main(bench(folder, *url)) == 7
        assert "responded with 401" in capsys.readouterr().err
        monkeypatch.setenv("LORA_CLI_API_KEY", "secret")
        assert main(["serve-bench", *url, "--input-len", "500"]) == 7
        out, err = capsys.readouterr()
        assert (out, err.count("error:")) == ("", 1)
        assert "responded with 400: the prompt has 500 tokens" in err
        found = document(capsys, bench(folder, *url, "--popularity", "zipf:0.8", "--num-prompts", "50"))
        after = counted()
    tiers = {tier: found["metrics"][f"{tier}_requests"] for tier in before}
    assert (found["tiers_from"], found["metrics"]["completed"]) == ("the server names them", 50)
    assert tiers == {tier: after[tier] - before[tier] for tier in before}
    assert min(tiers.values()) > 0
    assert found["metrics"]["p50_load_ms"] > 0


def test_a_manifest_is_served_and_measured_and_one_bad_adapter_stops_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.yaml").write_text(f"{MANIFEST}  - {{name: gone, source: ./gone}}\n")
    found = document(capsys, bench(folder, "-f", str(folder / "bad.yaml"), "--num-prompts", "12"), 7)
    assert {one["adapter"] for one in found["requests"] if not one["error"]} <= {"first", "second", "third"}
    assert {one["adapter"] for one in found["requests"] if one["error"]} <= {"gone"}
    assert found["metrics"]["hot_requests"] < found["metrics"]["completed"]  # the manifest has one slot
    assert "there is no folder" in found["failures"]["gone"]


def test_the_server_ends_with_whoever_measures_it(folder: Path) -> None:
    argv = bench(folder, "-f", str(folder / "set.yaml"), "--num-prompts", "5000", "--request-rate", "20")
    with subprocess.Popen([sys.executable, "-m", "lora_cli", *argv], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("sending 5000 requests")
        servers = children_of(process.pid)
        assert servers
        assert os.getpgid(process.pid) not in map(os.getpgid, servers), "Ctrl-C is not for it"
        process.kill()
    while any(map(alive, servers)):
        time.sleep(0.05)
