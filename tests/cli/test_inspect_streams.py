"""What ``lora-cli inspect`` writes as a whole process: what goes to which stream, how wide, and in which characters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import QUICKSTART
from tests.making import llama_modules, write_adapter, write_base

pytestmark = pytest.mark.usefixtures("copied_processes")

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", modules={**llama_modules(), "lm_head": (64, 256)}, dtype="bfloat16")


@pytest.mark.slow
def test_that_many_bytes_of_a_base_are_read_is_said_and_quiet_is_quiet(
    sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tmp_path / "base")
    with (base / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    end = len(data) + (5 << 30)
    header["model.large.weight"] = {"dtype": "BF16", "shape": [5 << 29], "data_offsets": [len(data), end]}
    text = json.dumps(header).encode()
    with (base / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)
        file.truncate(8 + len(text) + end)  # sparse
    done = _process("inspect", str(sql), "--spectrum", "--base", str(base))
    assert "up to 5.0 GiB of the base's weights are read" in done.stderr
    assert "percent of the norm of the base's weight" in done.stdout
    assert _process("inspect", str(sql), "--spectrum", "--base", str(base), "-q").stderr == ""


def test_nan_is_information_and_told_without_a_warning(tmp_path: Path) -> None:
    holed = np.ones((4, 64), "f4")
    holed[1, 1] = np.nan
    folder = write_adapter(
        tmp_path / "a", modules=llama_modules(), tensors={f"base_model.model.{Q}.lora_A.weight": holed}
    )
    done = _process("inspect", str(folder), "--spectrum", "--diff", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert "lora_A contains NaN or infinity" in done.stdout
    assert "\n    0      none" in done.stdout


@pytest.mark.parametrize("width", ["40", "80", "160"])
def test_piped_it_has_no_colour_and_fits(width: str) -> None:
    done = _process("inspect", str(QUICKSTART / "zubrowka"), "--spectrum", COLUMNS=width)
    assert "\x1b" not in done.stdout
    lines = done.stdout.partition("\nspectrum")[2].splitlines()
    assert all(len(line) <= int(width) or "model.layers" in line for line in lines)


def test_where_blocks_cannot_be_written_the_shades_are_ascii() -> None:
    done = _process("inspect", str(QUICKSTART / "zubrowka"), "--spectrum", PYTHONIOENCODING="ascii")
    text = done.stdout.partition("\nspectrum")[2]
    assert "##" in text
    assert "\\u2588" not in text


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
