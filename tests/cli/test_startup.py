"""Start-up is a feature: nothing heavy is imported before it is needed (benchmarks/startup.py has the times)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART

pytestmark = pytest.mark.slow

HEAVY = {"torch", "transformers", "numpy", "s3fs", "huggingface_hub", "obstore", "httpx2", "http.client", "yaml",
         "rich", "jinja2"}  # fmt: skip


def modules_after(code: str) -> set[str]:
    """The top-level packages that are imported once ``code`` has run in a fresh interpreter."""
    report = "\nimport sys\nsys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


SMALL = f"validate {QUICKSTART / 'pirate'} --base {QUICKSTART / 'smollm2-135m'} --format json"
NEEDED = {
    "--version": set[str](),
    "rules --format json": set[str](),
    "fetch ./nowhere": set[str](),
    "inspect ./nowhere --format json": set[str](),
    "validate --help": {"rich"},
    "rules LC101": {"rich"},
    "inspect ./nowhere": {"rich"},
    SMALL: {"numpy"},
}


@pytest.mark.parametrize("line", NEEDED, ids=lambda line: line[:30])
def test_a_command_imports_nothing_heavy_that_it_does_not_need(line: str) -> None:
    found = modules_after(f"from lora_cli.cli.main import main\nmain({line.split()!r})")
    assert found & HEAVY <= NEEDED[line]
    assert line != "--version" or "pydantic" not in found


@pytest.mark.parametrize("module", ["lora_cli.errors", "lora_cli.cli.main", "typer", "lora_cli.cli.rules"])
def test_an_interrupt_while_modules_are_imported_ends_without_a_traceback(module: str, tmp_path: Path) -> None:
    interrupting = f"""
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""
    (tmp_path / "sitecustomize.py").write_text(interrupting)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "lora_cli", "rules"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
