"""What ``lora-cli inspect`` writes as a whole process: what goes to which stream, how wide, and in which characters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.making import llama_modules, write_adapter

pytestmark = pytest.mark.usefixtures("copied_processes")

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", modules={**llama_modules(), "lm_head": (64, 256)}, dtype="bfloat16")


def test_to_a_pipe_the_command_alone_is_written_and_what_it_costs_to_standard_error(sql: Path, tmp_path: Path) -> None:
    argv = ["inspect", str(sql), "--engine-args", "vllm"]
    done = _process(*argv)
    assert done.stdout.startswith('  vllm serve "$MODEL" \\\n    --enable-lora \\\n')
    assert done.stderr.startswith("vLLM 0.33 for 1 adapter\n\n  slot ")
    ran = subprocess.run(["sh", "-n", "-c", done.stdout], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    quiet = _process(*argv, "-q")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")

    file = tmp_path / "args.txt"
    assert _process(*argv, "-o", str(file)).stderr == f"wrote {file}\n"
    assert (
        file.read_text()
        == done.stderr.partition("\n\n")[0] + "\n\n" + done.stdout + "\n" + done.stderr.partition("\n\n")[2]
    )
    assert _process(*argv, "-q", "-o", str(file)).stderr == ""


def _process(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "lora_cli", *argv], capture_output=True, text=True, env=env, check=False
    )
