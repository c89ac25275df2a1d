"""Whole processes, timed in pairs: what one run says about the next on a busy machine, its neighbour says too."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20

STARTER = """
import os, sys, time
report = int(sys.argv[1])
os.set_inheritable(report, False)
began = time.perf_counter()
_, status, used = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
wall_s = time.perf_counter() - began
code = os.waitstatus_to_exitcode(status)
os.write(report, f"{wall_s} {used.ru_utime + used.ru_stime} {used.ru_maxrss * 1024} {code}\\n".encode())
"""
"""What starts a process: the most memory that the system counts for one includes its parent's, and this has little."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line and what it has in its environment beside the bare necessities."""

    argv: Sequence[str]
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """What one whole process took: wall and processor seconds, and the most memory it ever had, in bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Pairs of runs: ours and the peer's of the same moment."""

    pairs: Sequence[tuple[Run, Run]]

    @property
    def ratio(self) -> float:
        """The median over the pairs of our wall time by the peer's."""
        return statistics.median(ours.wall_s / peer.wall_s for ours, peer in self.pairs)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest of these ratios."""
        ratios = [ours.wall_s / peer.wall_s for ours, peer in self.pairs]
        return min(ratios), max(ratios)

    def median(self, side: int, value: Callable[[Run], float]) -> float:
        """The median of a value over the runs of one side: 0 is ours, 1 the peer's."""
        return statistics.median(value(pair[side]) for pair in self.pairs)


def timed(command: Command, log: Path) -> Run:
    """Runs a whole process to its end. What earlier ones left to be written to disk is written before the clock starts.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    os.sync()
    reader, writer = os.pipe()
    with os.fdopen(reader) as told, log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", STARTER, str(writer), *command.argv],
                stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=dict(command.environ), pass_fds=[writer],
            )  # fmt: skip
        finally:
            os.close(writer)
        process.wait()
        wall_s, cpu_s, peak_bytes, code = (float(word) for word in told.readline().split())
    if code:
        raise RuntimeError(f"{command.argv} ended with {code:.0f}: {log.read_text(errors='replace')[-2000:]}")
    return Run(wall_s, cpu_s, int(peak_bytes))


def compared(
    ours: Callable[[Path], Command], peer: Callable[[Path], Command], pairs: int, folder: Callable[[], Path]
) -> Compared:
    """``pairs`` runs of each, in turns; each gets a fresh ``folder``. Who is first changes from pair to pair."""
    found = []
    for number in range(pairs):
        sides = [(0, ours), (1, peer)] if number % 2 == 0 else [(1, peer), (0, ours)]
        runs: dict[int, Run] = {}
        for side, command in sides:
            place = folder()
            runs[side] = timed(command(place), place / "log")
        found.append((runs[0], runs[1]))
    return Compared(found)
