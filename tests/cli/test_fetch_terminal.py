"""``lora-cli fetch`` on a terminal: bars on standard error, and directories alone on standard output."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.making import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SET = """apiVersion: lora-cli/v1
kind: AdapterSet
adapters:
  - {name: a, source: ./sql}
  - {name: b, source: ./chat}
"""


pytestmark = pytest.mark.usefixtures("a_folder_and_a_cache_of_its_own")


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", seed=1)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "chat", seed=2)


def on_a_terminal(argv: list[str], *, stdout_too: bool) -> tuple[str, str]:
    """What a whole process writes to standard output, and to the terminal that its standard error is."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "lora_cli", *argv]
    with subprocess.Popen(
        command, stdout=theirs if stdout_too else subprocess.PIPE, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                break
            if not chunk:
                break
            shown += chunk
        out = process.stdout.read().decode() if process.stdout else ""
        os.close(ours)
    assert process.returncode == 0
    return out, shown.decode()


def test_with_bars_on_a_terminal_standard_output_still_has_only_the_directory(sql: Path, tmp_path: Path) -> None:
    out, shown = on_a_terminal(["fetch", "./sql"], stdout_too=False)
    (line,) = out.splitlines()
    assert Path(line).parent == tmp_path / "cache" / "snapshots" / "sha256"
    assert "\x1b" in shown
    assert line not in shown


def test_on_a_terminal_people_see_what_and_where(sql: Path, tmp_path: Path) -> None:
    _, shown = on_a_terminal(["fetch", "./sql"], stdout_too=True)
    assert "2 files" in shown
    assert str(tmp_path / "cache" / "snapshots" / "sha256") in shown


def test_no_progress_shows_no_bars(sql: Path) -> None:
    _, shown = on_a_terminal(["fetch", "./sql", "--no-progress"], stdout_too=False)
    assert "\x1b" not in shown
