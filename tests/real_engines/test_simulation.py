"""``serve-bench --simulate --step`` beside a real vLLM, whose worker counts what it loads."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.real_engines.bases import SERVED, save
from tests.real_engines.vllm_hits import install
from tests.real_engines.vllm_server import Server, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]
NAMES = [f"a{number}" for number in range(8)]
SLOTS, PLACES = 2, 4
REQUESTS = 240
LOAD = [
    "--num-prompts",
    str(REQUESTS),
    "--num-seeds",
    "1",
    "--input-len",
    "16",
    "--output-len",
    "4",
    "--popularity",
    "zipf:1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulation")
    save(LLAMA, folder / "base")
    write_adapter(LLAMA, options(LLAMA, {}), folder / NAMES[0])
    for name in NAMES[1:]:
        shutil.copytree(folder / NAMES[0], folder / name)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    limits = ["--max-loras", str(SLOTS), "--max-cpu-loras", str(PLACES)]
    with serving(folder / "base", folder / "vllm.log", *limits, **install(folder / "plugin")) as running:
        for name in NAMES:
            assert running.load(name, folder / name).status == 200
        yield running


def counted(folder: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in (folder / "plugin" / "hits.txt").read_text().splitlines())


def simulated(folder: Path, file: Path, *steps: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    argv = ["serve-bench", "--simulate", "--trace", str(file.with_suffix(".trace.jsonl")), "--eviction", "lru"]
    argv += ["--max-loras", str(SLOTS), "--max-cpu-loras", str(PLACES), "--live-result", str(file)]
    assert main([*argv, *steps, "--format", "json"]) == 0, capsys.readouterr().err
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


@pytest.mark.parametrize(("pace", "tolerance"), [(["--max-concurrency", "1"], 0.0), (["--request-rate", "2"], 0.02)])
def test_hits_are_those_that_its_worker_counts(
    pace: list[str], tolerance: float, folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """One request at a time they are exactly the same; at a rate, what shares a batch depends on the processor.

    The p99 stall is the client's, with all else that delays a token: its error is printed.
    """
    file, links = folder / f"run{pace[0]}.json", folder / "links.json"
    words = ["serve-bench", "--url", f"http://127.0.0.1:{server.port}", "--lora-modules", *NAMES, *LOAD, *pace]
    words += ["--save-links", str(links), "--save-result", "--result-dir", str(folder), "--result-filename", file.name]
    for name in NAMES:  # each run begins with the same adapters in slots and in memory
        assert server.post("/v1/completions", {"model": name, "prompt": "t1", "max_tokens": 1}).status == 200
    before = counted(folder)
    assert main(words) == 0
    capsys.readouterr()
    worker = counted(folder) - before
    live = json.loads(file.read_text())
    file.write_text(
        json.dumps(live | {"at_start": {"slots": NAMES[-SLOTS:], "memory": NAMES[-PLACES:], "used": NAMES}})
    )
    assert worker["hit"] + worker["miss"] == len(live["runs"][0]["adapters"]) == REQUESTS
    # A step takes as long as the median time of a token.
    step_ms = median(gap * 1e3 for gaps in live["runs"][0]["itls"] for gap in gaps)
    steps = ["--step", f"{step_ms:.3f},0", "--max-num-seqs", "16"] if "--request-rate" in pace else []
    found = simulated(folder, file, "--links", str(links), *steps, capsys=capsys)
    lru, compared = found["policies"]["lru"], found["live"]
    with capsys.disabled():
        print(f"\n{' '.join(pace)}: hits {worker['hit']} in the worker, {lru['hits']} simulated; ", end="")
        print(f"loads {worker['load']} and {lru['hits_by_tier']['disk']}; ", end="")
        print(f"slots filled twice {worker['activate'] - worker['miss']}")
        if steps:  # one at a time, the client's own queue would count
            print(f"p99 stall {compared['stall_p99_ms']:.1f} ms, simulated {lru['stall_ms']['p99']:.1f} ms")
    assert abs(lru["hits"] - worker["hit"]) <= tolerance * REQUESTS
    if steps:
        assert abs(lru["hits_by_tier"]["disk"] - worker["load"]) <= tolerance * REQUESTS
