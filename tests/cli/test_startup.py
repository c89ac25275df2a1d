"""Start-up is a feature: nothing heavy is imported before it is needed (benchmarks/startup.py has the times)."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART, ROOT

pytestmark = pytest.mark.slow

HEAVY = ("torch", "transformers", "numpy", "s3fs", "huggingface_hub", "obstore", "httpx2", "http.client", "yaml",
         "rich", "jinja2")  # fmt: skip


def modules_after(code: str) -> set[str]:
    """The top-level packages that are imported once ``code`` has run in a fresh interpreter."""
    report = "\nimport sys\nsys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


BARE = [
    ["--version"],
    ["rules", "--format", "json"],
    ["fetch", "./nowhere"],
    ["inspect", "./nowhere", "--format", "json"],
]
DRAWN = [["--help"], ["validate", "--help"], ["warm", "-h"], ["rules", "LC101"], ["inspect", "./nowhere"]]
SMALL = ["validate", str(QUICKSTART / "pirate"), "--base", str(QUICKSTART / "smollm2-135m"), "--format", "json"]
NEEDED: list[tuple[list[str], set[str]]] = [
    *((line, set()) for line in BARE), *((line, {"rich"}) for line in DRAWN), (SMALL, {"numpy"}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "needed"), NEEDED, ids=lambda value: " ".join(value)[:30])
def test_a_command_imports_nothing_heavy_that_it_does_not_need(line: list[str], needed: set[str]) -> None:
    found = modules_after(f"from lora_cli.cli.main import main\nmain({line!r})")
    assert found & {*HEAVY} <= needed
    assert line != ["--version"] or "pydantic" not in found


def console_script() -> str:
    """What the installed ``lora-cli`` runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["lora-cli"].partition(":")
    return f"from {module} import {function}; {function}()"


@pytest.mark.parametrize("module", ["lora_cli.errors", "lora_cli.cli.main", "typer", "lora_cli.cli.rules"])
@pytest.mark.parametrize("start", [["-m", "lora_cli"], ["-c", console_script()]], ids=["module", "script"])
def test_an_interrupt_while_modules_are_imported_ends_without_a_traceback(
    start: list[str], module: str, tmp_path: Path
) -> None:
    interrupting = f"""
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""
    (tmp_path / "sitecustomize.py").write_text(interrupting)
    done = subprocess.run(
        [sys.executable, *start, "rules"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
