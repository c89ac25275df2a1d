"""What ``--help`` says in a pipe of 80 columns: ``GOLDEN=write`` writes it anew."""

import os
from pathlib import Path

import pytest

from lora_cli.cli.main import main

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("command", ["validate", "serve-bench"])
def test_the_help_is_as_its_golden_file_says(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0

    text, file = capsys.readouterr().out, GOLDEN / f"{command}.help.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
