"""Loading and evicting again and again leaves memory, descriptors and threads as they were, and bits too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """if True:
    import os, sys, threading
    from pathlib import Path
    import torch
    from lora_cli.runtime.messages import LoraRequest
    from lora_cli.runtime.plan import TierLimits, Plan
    from lora_cli.runtime.worker import Worker
    from tests.making import llama_modules, write_adapter
    from tests.runtime.reading import LLAMA, read

    folder, cycles = Path(sys.argv[1]), int(sys.argv[2])
    jobs = []
    for seed, r in enumerate((4, 8, 16, 32)):
        at = write_adapter(folder / str(seed), modules=llama_modules(), r=r, seed=seed)
        jobs.append(LoraRequest(str(seed), at, read(at)))
    worker = Worker(Plan(LLAMA, tuple(llama_modules()), TierLimits(1, 2, 32), device="cpu"))

    def taken():
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["RssAnon"].split()[0]), len(os.listdir("/proc/self/fd")), threading.active_count()

    def bits(job):
        with worker.cpu_tier.lease(job.key) as place:
            return [part.clone() for path in llama_modules() for part in worker.host_slots.at(place, path)]

    worker.serve(jobs[0])
    first = bits(jobs[0])
    for cycle in range(cycles):
        worker.serve(jobs[cycle % 4])
        if cycle == cycles // 5:
            before = taken()
    after = taken()
    worker.serve(jobs[0])
    assert worker.cpu_tier.counts().loads >= cycles
    assert all(map(torch.equal, bits(jobs[0]), first))
    print(before[0], after[0], before[1:] == after[1:])
"""


@pytest.mark.slow
def test_a_thousand_loads_and_evictions_leave_memory_as_it_was_and_the_same_bits(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_WAIT_POLICY": "PASSIVE"}
    argv = [sys.executable, "-c", SCRIPT, str(tmp_path), "1000"]
    said = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    before_kib, after_kib, rest_is_alike = said.split()
    assert int(after_kib) - int(before_kib) < 4096
    assert rest_is_alike == "True"
