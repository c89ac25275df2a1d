"""What the warm process's worker takes of memory, beside what it must and cycle after cycle."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .pairs import Goal, line

CYCLES = 10_000

SCRIPT = """
import gc, json, sys
from pathlib import Path
import torch, transformers, transformers.models.llama.modeling_llama, safetensors.torch
from warming.memory import rss
from warming.forward import base_of, hush
from lora_cli.adapter.reading import read_adapter
from lora_cli.sources.files import files_at
from lora_cli.warm.plan import LoraRequest, Plan
from lora_cli.warm.worker import Worker

hush()
model, cycles, folders = Path(sys.argv[1]), int(sys.argv[2]), [Path(one) for one in sys.argv[3:]]
base = base_of(model)
jobs = [LoraRequest(one.name, one, read_adapter(files_at(one), one.name), one.name) for one in folders]
imported = rss()
worker = Worker(Plan(base, 2, 4, base_directory=model, device="cpu", forward="model"))
for job in jobs:
    assert not worker.load(job).error
model = worker.full_model.model
weights = model.parameters()
must = worker.status()["cpu"]["bytes"] + sum(one.numel() * one.element_size() for one in weights)
loaded = rss()
seen = []
for cycle in range(cycles):
    with worker.lease(jobs[cycle % len(jobs)]):
        pass
    if cycle * 10 % cycles == 0:
        seen.append(rss())
assert worker.slots.evictions >= cycles / 4
print(json.dumps({"must": must, "took": loaded - imported, "seen": seen}))
"""


def rss() -> int:
    """Bytes of this process that are in memory, without files that others could drop."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def lines(model: Path, folder: Path, cycles: int) -> Iterator[str]:
    """Every row of the memory's table."""
    from .forward import write_adapters

    folders = write_adapters(model, folder / "small", [8] * 6, ["q_proj", "v_proj"])
    here = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(here), str(here.parent)])
    argv = [sys.executable, "-c", SCRIPT, str(model), str(cycles), *map(str, folders)]
    said = subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path}).stdout
    found = json.loads(said.splitlines()[-1])
    share = found["took"] / found["must"]
    yield line("memory above imports", "model + slots", (share, share, share), Goal(1.10))
    growth = [one / found["seen"][1] for one in found["seen"][1:]]
    yield line(
        f"memory over {cycles} loads and evictions", "after a tenth", (growth[-1], min(growth), max(growth)), Goal(1.01)
    )
