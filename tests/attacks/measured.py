"""The command line as a process of its own, with what it took: hostile adapters are judged within bounds."""

import json
import os
import statistics
import time
from dataclasses import dataclass

from tests import forked


@dataclass(frozen=True, slots=True)
class Run:
    """How one run ended. ``cpu_s`` is its processor time: what others do on the machine is not in it.

    ``peak_mb`` is the most memory that it had, 0 where it was killed.
    """

    code: int
    out: str
    cpu_s: float
    peak_mb: float


def lora_cli(*arguments: object) -> Run:
    """Run ``lora-cli`` with ``arguments``; both of its streams are ``out``."""
    done = forked.run(list(map(str, arguments)), {**os.environ, "NO_COLOR": "1"}, together=True)
    return Run(done.code, done.out, done.cpu_s, done.peak_kb / 1000)


def within(cpu_s: float, peak_mb: float, *arguments: object) -> Run:
    """The run, which takes no more than that; on a busy machine the best of three counts.

    ``cpu_s`` is of a machine that does ``known_work`` in ``KNOWN_WORK_S``. One that was slower right before or after
    the run may take as much longer: what runs beside it takes its caches, and that is in its processor time.
    """
    before_s = KNOWN_WORK_S
    for _ in range(3):
        run = lora_cli(*arguments)
        after_s = known_work() if run.cpu_s > cpu_s else KNOWN_WORK_S
        allowed_s = cpu_s * max(KNOWN_WORK_S, before_s, after_s) / KNOWN_WORK_S
        if 0 < run.peak_mb <= peak_mb and run.cpu_s <= allowed_s:
            return run
        before_s = after_s
    assert run.cpu_s <= allowed_s, (run.cpu_s, allowed_s, run.out[-2000:])
    assert 0 < run.peak_mb <= peak_mb, (run.peak_mb, run.out[-2000:])
    return run


KNOWN_WORK_S = 0.035


def known_work() -> float:
    """Seconds of processor time for work like that of judging a header: the median of five times."""
    text = json.dumps({f"layers.{i}.lora_A.weight": {"shape": [i, 8], "offsets": [i, i + 8]} for i in range(20_000)})
    times = []
    for _ in range(5):
        start = time.process_time()
        shapes = [(name.split("."), tuple(entry["shape"])) for name, entry in json.loads(text).items()]
        times.append(time.process_time() - start)
        assert len(sorted(shapes, key=str)) == 20_000
    return statistics.median(times)
