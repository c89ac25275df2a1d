"""What ``--help`` says in 80 columns: ``GOLDEN=write`` writes it anew."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.cache import COMMANDS as OF_CACHE
from lora_cli.cli.main import COMMANDS, load_command, main
from tests.cli.test_main import options_of

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


WORDS = [[name] for name in COMMANDS if name != "cache"] + [["cache", name] for name in OF_CACHE]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_nothing_is_cut_at_any_width(
    words: list[str], columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "…" not in text
    command: Any = load_command(words[0])
    for word in words[1:]:
        command = command.commands[word]
    for option in options_of(command):
        assert all(flag in text for flag in [*option.opts, *option.secondary_opts]), option.opts


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_h_is_help_and_the_global_options_are_in_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert main([*words, "-h"]) == 0
    assert capsys.readouterr().out == text
    assert {"--cache-dir", "--offline", "--quiet", "--verbose"} <= set(text.split())


@pytest.mark.parametrize("words", [*WORDS, ["cache"]], ids=" ".join)
def test_each_command_has_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    examples = capsys.readouterr().out.partition("Examples:")[2]
    assert f"$ lora-cli {' '.join(words)}" in examples


@pytest.mark.parametrize("columns", [80])
@pytest.mark.parametrize(("words", "told"), [([], COMMANDS.values()), (["cache"], [])])
def test_what_commands_do_is_not_cut_either(
    words: list[str],
    told: Iterable[str],
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*words, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    told = told or [" ".join((function.__doc__ or "").partition(".")[0].split()) for function in OF_CACHE.values()]
    assert [one for one in told if one not in text] == []
