"""The command line in a process of its own: a hostile adapter is judged within bounds."""

import os

from tests import forked

LONGEST_S = 60
"""Of processor time: a multiple of what a slow machine needs, and far below what work that grows faster would take."""


def bounded(*arguments: object, peak_mb: float = 300) -> forked.Forked:
    """A run of ``lora-cli`` that ended by itself, in time and with no more memory; both of its streams are ``out``."""
    run = forked.run(list(map(str, arguments)), {**os.environ, "NO_COLOR": "1"}, together=True)
    assert run.code in {0, 1}, run.out[-2000:]
    assert "Traceback" not in run.out
    assert run.cpu_s < LONGEST_S
    assert 0 < run.peak_kb / 1000 <= peak_mb
    return run


def words(run: forked.Forked) -> str:
    """What it said, on one line."""
    return " ".join(run.out.split())
