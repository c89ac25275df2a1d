"""The small Hub as a process of its own."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def hub_process(root: Path) -> Iterator[str]:
    """The Hub in a process of its own, so that it does not share this interpreter's lock; its endpoint.

    ``GET {endpoint}/_control/requests`` is its log; ``POST {endpoint}/_control/faults`` takes a ``Fault`` as JSON.
    """
    command = [sys.executable, "-m", "tests.hub_server", "--root", str(root)]
    house = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=house, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["endpoint"]
        finally:
            process.terminate()
