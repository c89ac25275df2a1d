"""How much of lora_cli one command goes through: who wants to change it has that much to read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.making import llama_modules, write_adapter, write_base_config

COUNT = """
import sys, threading
entered = set()
for profiled in (threading, sys):
    profiled.setprofile(lambda frame, event, _: event == "call" and entered.add(frame.f_code))
from lora_cli.cli.main import main
code = main(sys.argv[1:])
sys.setprofile(None)
ours = [one for one in entered if "/lora_cli/" in one.co_filename and "__qualname__" not in one.co_names]
ours = [one for one in ours if not one.co_name.startswith("<")]
lines = [len({line for _, _, line in one.co_lines() if line}) for one in ours]
print(code, len({one.co_filename for one in ours}), len(ours), max(lines), file=sys.stderr)
print(*(name for name in sys.modules if name.startswith("lora_cli.checks")), sep=" ", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "modules", "functions"),
    [
        ("validate ../adapter --base ../base --engine vllm", 45, 300),
        ("inspect ../adapter", 30, 139),
        ("fetch ../adapter", 31, 190),
    ],
)
def test_a_command_enters_few_modules_and_functions(command: str, modules: int, functions: int, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", modules=llama_modules(["q_proj", "v_proj"]))
    write_base_config(tmp_path / "base")
    (tmp_path / "here").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    argv = [sys.executable, "-c", COUNT, *command.split()]
    done = subprocess.run(argv, env=env, cwd=tmp_path / "here", capture_output=True, text=True, check=True)

    counts, rules = done.stderr.splitlines()[-2:]
    code, entered_modules, entered_functions, longest = map(int, counts.split())
    assert code == 0
    assert entered_modules <= modules
    assert entered_functions <= functions
    assert longest <= 80
    assert bool(rules) == command.startswith("validate")
