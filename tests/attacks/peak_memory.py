"""A command line in a process of its own: what it said, how it ended, and how much memory it took."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests import forked


@dataclass(frozen=True)
class Measured:
    """``peak`` is in MiB."""

    code: int
    peak: float
    out: str
    err: str


def run(root: Path, *argv: str, **environ: str) -> Measured:
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
    done = forked.run(list(argv), seen, root)
    assert done.peak_kb, done.err
    return Measured(done.code, done.peak_kb / 1024, done.out, done.err)
