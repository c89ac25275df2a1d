"""Start-up is a feature: nothing heavy is imported before it is needed."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "s3fs", "huggingface_hub", "obstore", "pydantic", "httpx2", "yaml", "rich")


def modules_after(code: str) -> set[str]:
    """The top-level packages that are imported once ``code`` has run in a fresh interpreter."""
    report = "\nimport sys\nsys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_app_imports_nothing_heavy() -> None:
    assert not modules_after("import lora_cli.cli.main") & set(HEAVY)


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["validate", "--help"], ["fetch", "--help"]])
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    assert not modules_after(f"from lora_cli.cli.main import main\nmain({argv!r})") & set(HEAVY)
