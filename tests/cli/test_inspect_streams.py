"""What ``lora-cli inspect`` writes as a whole process: what goes to which stream, how wide, and in which characters."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import forked
from tests.making import llama_modules, write_adapter

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", modules={**llama_modules(), "lm_head": (64, 256)}, dtype="bfloat16")


def streams(*argv: str, **environment: str) -> forked.Forked:
    return forked.run([*argv], {**os.environ, **environment})


def test_to_a_pipe_the_command_alone_is_written_and_what_it_costs_to_standard_error(sql: Path, tmp_path: Path) -> None:
    argv = ["inspect", str(sql), "--engine-args", "vllm"]
    done = streams(*argv)
    assert done.out.startswith('  vllm serve "$MODEL" \\\n    --enable-lora \\\n')
    assert done.err.startswith("vLLM 0.33 for 1 adapter\n\n  slot ")
    ran = subprocess.run(["sh", "-n", "-c", done.out], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    quiet = streams(*argv, "-q")
    assert (quiet.out, quiet.err) == (done.out, "")

    file = tmp_path / "args.txt"
    assert streams(*argv, "-o", str(file)).err == f"wrote {file}\n"
    assert file.read_text() == done.err.partition("\n\n")[0] + "\n\n" + done.out + "\n" + done.err.partition("\n\n")[2]
    assert streams(*argv, "-q", "-o", str(file)).err == ""
