"""A command line in a process of its own: what it said, how it ended, and how much memory it took."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Not what the parent counts: that would have the parent's own memory in it, from before the start.
PROGRAM = """
import sys
from lora_cli.cli.main import main
code = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.stdout.flush()
print("peak", peak.split()[1], file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Measured:
    """``peak`` is in MiB."""

    code: int
    peak: float
    out: str
    err: str


def run(root: Path, *argv: str, timeout_s: float = 100, **environ: str) -> Measured:
    """Runs one command line in ``root``, with a cache and a home there."""
    seen = {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "home"),
        "LORA_CLI_CACHE_DIR": str(root / "cache"),
        "LORA_CLI_RETRIES": "0",
        "LORA_CLI_TIMEOUT": "20s",
        "AWS_EC2_METADATA_DISABLED": "true",
        **environ,
    }
    command = [sys.executable, "-c", PROGRAM, *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root, env=seen, timeout=timeout_s)
    said, _, peak = done.stderr.rpartition("peak ")
    assert peak, done.stderr
    return Measured(done.returncode, int(peak) / 1024, done.stdout, said)
