"""What servers send: the forwarder that the benchmarks count with, in a process of its own, which owns its sockets."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COUNTED = Path(__file__).parents[1] / "benchmarks" / "fetching"
RUN = """
import json, sys
from counted import Counted
counted = Counted(json.loads(sys.argv[1]))
print(json.dumps(counted.ports), flush=True)
for _ in sys.stdin:
    print(counted.received, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Traffic:
    """A forwarder that is up: ``ports`` lead to the servers' own, in their order."""

    process: "subprocess.Popen[str]"
    ports: list[int]

    @property
    def received(self) -> int:
        """The bytes that the servers sent so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def counted(*places: str) -> Iterator[Traffic]:
    """Counts what passes to ``places`` (``127.0.0.1:8333``, or an address): see ``benchmarks/fetching/counted.py``."""
    ports = json.dumps([int(place.rpartition(":")[2]) for place in places])
    command = [sys.executable, "-c", RUN, ports]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=COUNTED, text=True, env={}
    ) as process:
        assert process.stdout is not None
        try:
            yield Traffic(process, json.loads(process.stdout.readline()))
        finally:
            process.terminate()
