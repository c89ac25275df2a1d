"""SGLang's server on the CPU, with a scheduler that has no model (``sglang_scheduler.py``), as a process of its own."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.real_engines.vllm_server import ROOT, Server, free_port, started, wait

PYTHON = ROOT / ".venv-sglang" / "bin" / "python"
MAX_LORA_RANK = 16
MAX_LOADED = 4


@dataclass(frozen=True, slots=True)
class SglangServer(Server):
    """A server that is up, and the file of what its scheduler loaded and unloaded."""

    loads: Path

    def loaded(self, name: str) -> list[tuple[str, bool]]:
        """What the scheduler did with that name, in its order, and whether it succeeded."""
        lines = self.loads.read_text().splitlines() if self.loads.exists() else []
        return [(verb, done) for verb, asked, done in map(json.loads, lines) if asked == name]


@contextlib.contextmanager
def serving(base: Path, folder: Path, **environment: str) -> Iterator[SglangServer]:
    """The base at ``base``, served as ``base`` until the block is left; ``folder`` gets its log."""
    assert PYTHON.is_file(), "SGLang is not installed: make test-engines does that"
    port, log, loads = free_port(), folder / "sglang.log", folder / "loads"
    command = [
        *(str(PYTHON), "-c", "from tests.real_engines.sglang_scheduler import main; main()"),
        *("--model-path", str(base)),
        *("--served-model-name", "base", "--port", str(port), "--skip-server-warmup", "--dtype", "float32"),
        *("--device", "cpu", "--attention-backend", "torch_native", "--enable-lora", "--lora-target-modules", "all"),
        *("--max-lora-rank", str(MAX_LORA_RANK), "--max-loras-per-batch", "2", "--max-loaded-loras", str(MAX_LOADED)),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG_")}
    ours = {
        "SGLANG_TEST_LOG": str(loads),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    with started(command, {**kept, **ours, **environment}, log) as process:
        server = SglangServer(port, process, log, loads)
        wait(server)
        yield server
