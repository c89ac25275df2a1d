"""Command lines in processes of their own, each a copy of one that has read the modules: half a second less for each.

What a copy takes of the processor and of memory is what the command line takes, beside what the modules take.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from tests.conftest import ROOT

LONGEST_S = 120
SERVER = """
import gc, json, os, re, signal, sys, tempfile
from contextlib import redirect_stderr
from pathlib import Path
from lora_cli import redaction
from lora_cli.cli.main import main, run

ours = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
adapter = "manifests/quickstart/pirate"
validate = ["validate", adapter, "--base", "manifests/quickstart/smollm2-135m", "--engine", "vllm"]
with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
    for words in (validate, [*validate, "--format", "sarif"], ["inspect", adapter], ["fetch", adapter]):
        main(["--cache-dir", folder, *words])
redaction.forget()
gc.collect()
gc.freeze()
os.write(ours, b"ready\\n")
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        signal.alarm(job["longest_s"])
        for number, file in ((1, job["out"]), (2, job["err"])):
            os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environ"])
        sys.argv[1:] = job["words"]
        try:
            run()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
            Path(job["peak"]).write_text(peak)
    _, status, used = os.wait4(pid, 0)
    said = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]
    os.write(ours, json.dumps(said).encode() + b"\\n")
"""
"""Reads a job from each line, and tells how it ended. Before the first it runs what imports most."""


@dataclass(frozen=True, slots=True)
class Forked:
    """How one command line ended. ``peak_kb`` is 0 where it was killed."""

    code: int
    out: str
    err: str
    cpu_s: float
    peak_kb: int


def run(words: list[str], environ: Mapping[str, str], folder: Path | None = None, *, together: bool = False) -> Forked:
    """Runs one command line in ``folder``; ``together`` has both of its streams in ``out``."""
    with tempfile.TemporaryDirectory() as told:
        out, err, peak = (Path(told, name) for name in ("out", "err", "peak"))
        for file in (out, err):
            file.touch()
        files = {"out": str(out), "err": str(out if together else err), "peak": str(peak)}
        job = {"words": words, "environ": dict(environ), "folder": str(folder or Path.cwd()), **files}
        asking, answers = _server()
        asking.write(json.dumps({**job, "longest_s": LONGEST_S}) + "\n")
        asking.flush()
        code, cpu_s = json.loads(answers.readline())
        peak_kb = int(peak.read_text()) if peak.exists() else 0
        return Forked(code, out.read_text(errors="replace"), err.read_text(errors="replace"), cpu_s, peak_kb)


@cache
def _server() -> tuple[IO[str], IO[str]]:
    """Where jobs are written to, and answers read from."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    atexit.register(process.kill)
    return process.stdin, process.stdout
