"""The buffers of the real vLLM on the CPU are those that ``inspect --engine-args`` says (``make test-engines``)."""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real_engines.vllm_server import ENVIRONMENT, PYTHON

pytestmark = pytest.mark.engines

RECORDED = json.loads((Path(__file__).parents[1] / "engines" / "slots" / "vllm.json").read_text())
EXPERTS = ("mixtral", "qwen3_moe", "qwen2_moe", "deepseek", "gpt_oss", "llama4")
"""What vLLM has no LoRA for on the CPU."""


def is_run_here(case: dict[str, Any]) -> bool:
    return not case["config"].startswith(EXPERTS)


def test_vllm_makes_the_buffers_that_are_recorded(tmp_path: Path) -> None:
    cases = [case for case in RECORDED["cases"] if is_run_here(case)]
    lines = []
    for name in {case["config"] for case in cases}:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(RECORDED["configs"][name]))
    for case in cases:
        flags = {"max_loras": RECORDED["slots"], "max_lora_rank": RECORDED["rank"]}
        flags |= {"lora_target_modules": case["targets"]} if case["targets"] else {}
        lines.append(json.dumps({"directory": str(tmp_path / case["config"]), "flags": flags}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    script = Path(__file__).with_name("vllm_slots.py")
    ran = subprocess.run(
        [str(PYTHON), str(script), address],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRONMENT, "HOME": str(tmp_path)},
    )

    assert ran.returncode == 0, ran.stderr[-2000:]
    told = [int(line.split()[1]) for line in ran.stdout.splitlines() if line.startswith("BYTES ")]
    assert told == [case["bytes"] for case in cases]
