"""Start-up is a feature: nothing heavy is imported before it is needed (benchmarks/startup.py has the times)."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART, ROOT

pytestmark = pytest.mark.slow

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "s3fs",
    "huggingface_hub",
    "obstore",
    "httpx2",
    "http.client",
    "yaml",
    "rich",
    "jinja2",
)


def modules_after(code: str) -> set[str]:
    """The top-level packages that are imported once ``code`` has run in a fresh interpreter."""
    report = "\nimport sys\nsys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_app_imports_nothing_heavy() -> None:
    assert not modules_after("import lora_cli.cli.main") & set(HEAVY)


@pytest.mark.parametrize(
    "argv",
    [
        ["--version"],
        ["rules", "--format", "json"],
        ["fetch", "./nowhere"],
        ["inspect", "./nowhere", "--format", "json"],
    ],
)
def test_a_command_imports_nothing_heavy_that_it_does_not_need(argv: list[str]) -> None:
    assert not modules_after(f"from lora_cli.cli.main import main\nmain({argv!r})") & ({*HEAVY})


@pytest.mark.parametrize(
    "argv", [["--help"], ["validate", "--help"], ["warm", "-h"], ["rules", "LC101"], ["inspect", "./nowhere"]]
)
def test_what_people_read_imports_nothing_heavy_but_what_draws_it(argv: list[str]) -> None:
    assert not modules_after(f"from lora_cli.cli.main import main\nmain({argv!r})") & ({*HEAVY} - {"rich"})


def test_validating_a_small_adapter_imports_nothing_heavy_but_what_reads_its_values() -> None:
    argv = ["validate", str(QUICKSTART / "pirate"), "--base", str(QUICKSTART / "smollm2-135m"), "--format", "json"]

    assert modules_after(f"from lora_cli.cli.main import main\nmain({argv!r})") & {*HEAVY} == {"numpy"}


def test_the_version_is_told_before_options_are_read_with_pydantic() -> None:
    assert not modules_after("from lora_cli.cli.main import main\nmain(['--version'])") & {*HEAVY, "pydantic"}


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
