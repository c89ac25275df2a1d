"""The ratchet of sizes, through its command line, and the git hook, both in a small repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

APP = """class Command:
    def make_context(self, *path, **how): return None
    def get_params(self, context): return []
COMMANDS, build_app, load_command = (), Command, None
"""
SIZES = '# Stays.\n\n[tests]\nmake_test_seconds = 9\n\n[budget]\n"total.lines" = 28000\n'
NAMES = [f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]


def run(*command: str) -> tuple[int, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | dict.fromkeys(NAMES, "a")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    return done.returncode, done.stdout + done.stderr


def size(option: str) -> tuple[int, str]:
    return run(sys.executable, "-B", "tools/size.py", option)


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory: its one commit has set the ceilings."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "tools", "tools", ignore=shutil.ignore_patterns("__pycache__"))
    Path("lora_cli/cli").mkdir(parents=True)
    Path("lora_cli/cli/app.py").write_text(APP)
    Path("size.toml").write_text(SIZES)
    assert [run("git", "init", "-q", "--template="), run("git", "add", "."), size("--set")] == [(0, "")] * 3
    assert run("git", "commit", "-q", "-a", "-m", "First") == size("--check") == (0, "")


def test_a_ceiling_falls_by_itself_and_rises_only_with_a_promise() -> None:
    app, sizes = Path("lora_cli/cli/app.py"), Path("size.toml")
    text = sizes.read_text()
    app.write_text(APP + "#\n")
    assert (size("--check")[0], size("--set"), sizes.read_text()) == (1, (0, ""), text)
    sizes.write_text(text.replace("lines = 4, modules = 1", "lines = 9, modules = 1"))
    assert size("--check")[0] == 1
    sizes.write_text(text)
    assert [size("--set=Kept."), size("--check")] == [(0, "")] * 2
    assert 'figure = "packages.cli.lines"\nfrom = 4\nto = 5\npromise = "Kept."\n' in sizes.read_text()


def test_the_hook_says_what_a_commit_adds_and_takes() -> None:
    Path(".git/hooks").mkdir()
    Path(".git/hooks/prepare-commit-msg").symlink_to(Path("tools/prepare-commit-msg").absolute())
    Path("lora_cli/cli/app.py").write_text("COMMANDS = ()\n")
    Path("lora_cli/new.txt").write_text("1\n" * 1200)
    assert run("git", "add", ".") == run("git", "-C", "lora_cli", "commit", "-q", "-m", "Second") == (0, "")
    told = "product +1,197 · tests 0 · total 1,201 of 28,000"
    assert run("git", "log", "-1", "--format=%B")[1].strip() == f"Second\n\n{told}"
