"""``lora-cli fetch`` on a terminal: bars on standard error, and directories alone on standard output."""

import re
import sys
from pathlib import Path

import pytest

from tests.cli.test_progress import on_a_terminal
from tests.making import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


pytestmark = pytest.mark.usefixtures("a_folder_and_a_cache_of_its_own")


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", seed=1)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "chat", seed=2)


def fetched(*argv: str, code: int = 0, piped: bool = False) -> str:
    """What a whole process writes to the terminal; with ``piped`` its standard output is the file ``out``."""
    command = ["sh", "-c", 'exec "$0" "$@" > out' if piped else 'exec "$0" "$@"', sys.executable, "-m", "lora_cli"]
    found, shown = on_a_terminal([], columns=100, rows=40, command=[*command, "fetch", *argv])
    assert found == code
    return shown


def test_with_bars_on_a_terminal_standard_output_still_has_only_the_directory(sql: Path, tmp_path: Path) -> None:
    shown = fetched("./sql", piped=True)
    (line,) = Path("out").read_text().splitlines()
    assert Path(line).parent == tmp_path / "cache" / "snapshots" / "sha256"
    assert "\x1b" in shown
    assert line not in shown


def lines_of(shown: str) -> list[str]:
    """The lines without their styles, each as it stands after the terminal last cleared it (``ESC [2K``)."""
    lines = (line.rpartition("\x1b[2K")[2] for line in shown.replace("\r", "").splitlines())
    return [re.sub(r"\x1b\[[?\d]*[A-Za-z]", "", line) for line in lines]


def test_on_a_terminal_a_table_tells_what_came_of_each_and_where_it_is(sql: Path, chat: Path, tmp_path: Path) -> None:
    fetched("./sql")
    shown = fetched("./sql", "./chat", "./none", code=3)
    lines = lines_of(shown)
    at = next(number for number, line in enumerate(lines) if line.split()[:1] == ["adapter"])
    assert lines[at].split() == ["adapter", "status", "revision", "files", "size", "time"]
    assert [line.split()[:2] for line in lines[at + 1 : at + 4]] == [
        ["./sql", "cached"],
        ["./chat", "downloaded"],
        ["./none", "failed"],
    ]
    assert lines[at + 1].split()[3] == "2"
    folder = tmp_path / "cache" / "snapshots" / "sha256"
    assert [Path(line.split()[1]).parent for line in lines[at + 5 : at + 7]] == [folder, folder]
    assert re.fullmatch(r"3 adapters, \d+\.\d KiB: 1 downloaded, 1 cached, 1 failed in \d\.\d+ s", lines[-1])
    assert any(line.startswith("error: ./none: there is no folder ") for line in lines)
    assert any(line.startswith("hint: ") for line in lines)


def test_a_quiet_terminal_gets_directories_alone(sql: Path, tmp_path: Path) -> None:
    shown = fetched("./sql", "--quiet")
    (line,) = lines_of(shown)
    assert Path(line).parent == tmp_path / "cache" / "snapshots" / "sha256"


def test_no_progress_shows_no_bars(sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_NO_PROGRESS", "1")
    assert "\x1b" not in fetched("./sql", piped=True)
