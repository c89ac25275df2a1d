"""What a terminal shows while adapters are fetched: never too wide, gone at the end, and no output lost to it."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from lora_cli.cli.progress import Bars
from tests.hub_server import Hub

DOWNLOADS = st.lists(st.tuples(st.text(max_size=200), st.integers(1, 2**50), st.integers(0, 2**50)), max_size=20)


@given(DOWNLOADS, st.text(), st.sampled_from([60, 100]))
def test_a_run_shows_its_downloads_its_stage_and_how_many_are_through(
    downloads: list[tuple[str, int, int]], stage: str, width: int
) -> None:
    with patch.dict(os.environ, {"COLUMNS": str(width)}):
        run = Bars(3, "fetched")
    run.set_stage(stage, "proof")
    for name, size, come in downloads:
        run.began(name, size)
        run.advanced(name, come)
        run.advanced(name, -1)  # wrong bytes come again
    lines = drawn(run, width)
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)
    assert lines[0].startswith("0 of 3 fetched")
    assert len(lines) == 1 + len(downloads)
    for number, (name, *_) in enumerate(downloads[:3]):
        run.adapter_ended(name, failed=number == 1)
    done, failed = min(len(downloads), 3) - (len(downloads) > 1), len(downloads) > 1
    assert drawn(run, 100)[0].startswith(f"{done} of 3 fetched{', 1 failed' * failed}")


def drawn(run: Bars, width: int) -> list[str]:
    """The lines of a drawing, as the console of a terminal of that width writes them."""
    console = Console(file=(file := io.StringIO()), width=width, highlight=False)
    console.print(run._drawn.get_renderable())
    return [line.rstrip() for line in file.getvalue().splitlines()]


def on_a_terminal(
    argv: list[str],
    columns: int,
    rows: int,
    *,
    killed_by: signal.Signals | None = None,
    command: list[str] | None = None,
) -> tuple[int, str]:
    """The code of a whole process on a terminal of that size, and all that it wrote there.

    ``killed_by`` is sent once it has drawn something.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    command = command or [sys.executable, "-m", "lora_cli", *argv]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
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
            if killed_by is not None and b" of " in shown:
                process.send_signal(killed_by)
                killed_by = None
        os.close(ours)
    return process.returncode, shown.decode()


def screen(shown: str) -> list[str]:
    """The lines that are left of what was written, as a terminal that is high enough keeps them."""
    lines, at = [""], 0
    for part in re.split(r"(\x1b\[1A|\x1b\[2K|\r\n|\r|\n)", shown):
        if part == "\x1b[1A":
            at -= 1
        elif part == "\x1b[2K":
            lines[at] = ""
        elif part in {"\r\n", "\n"}:
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif part != "\r":
            lines[at] += part
    return [plain(line) for line in lines]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\??[0-9;]*[mhl]", "", text)


def drawn_in(shown: str) -> list[str]:
    """All lines that were written at some time."""
    return [plain(line).rstrip() for line in re.split(r"\x1b\[1A|\x1b\[2K|\r|\n", shown)]


def test_a_narrow_terminal_shows_how_far_it_is_and_keeps_every_line_of_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"adapter-with-a-rather-long-name-{number}" for number in range(6)]
    with Hub() as hub:
        for number, name in enumerate(names):
            weights = bytes([number]) * 200_000
            hub.add(f"org/{name}", {"adapter_config.json": {"r": number}, "adapter_model.safetensors": weights})
        hub.fault("cdn", times=-1, delay_s=0.4)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("LORA_CLI_JOBS", "3")
        argv = ["fetch", "--cache-dir", str(tmp_path / "c"), *(f"org/{name}" for name in names)]
        code, shown = on_a_terminal(argv, columns=60, rows=8)
    assert code == 0
    drawn = [line for line in drawn_in(shown) if " of 6 fetched" in line or " of 195.3 KiB" in line]
    assert any("adapter-with-a" in line for line in drawn)
    assert max(map(len, drawn)) <= 60
    kept = screen(shown)
    assert sum(": downloaded, 2 files" in line for line in kept) == 6
    assert not any(" of 6 fetched" in line for line in kept)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_kill_leaves_a_terminal_that_shows_its_cursor(
    how: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub() as hub:
        hub.add("org/sql", {"adapter_config.json": {"r": 1}, "adapter_model.safetensors": bytes(200_000)})
        hub.fault("cdn", times=-1, delay_s=20)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        argv = ["fetch", "--cache-dir", str(tmp_path / "c"), "org/sql"]
        code, shown = on_a_terminal(argv, columns=80, rows=8, killed_by=how)
    assert code in {-how, 130, 143}
    assert ("interrupted: downloaded data is kept" in shown) == (how is signal.SIGINT)
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


def test_what_is_written_to_standard_error_meanwhile_stands_above_the_drawing() -> None:
    script = (
        "import time\n"
        "from lora_cli.cli.output import to_stderr\n"
        "from lora_cli.cli.progress import Bars\n"
        "with Bars(2, 'fetched') as shown:\n"
        "    shown.began('sql', 100)\n"
        "    time.sleep(0.3)\n"
        "    shown.waiting('sql')\n"
        "    to_stderr('/a' * 60)\n"
        "    time.sleep(0.3)\n"
        "to_stderr('after')\n"
    )
    code, shown = on_a_terminal([], columns=70, rows=24, command=[sys.executable, "-c", script])
    assert code == 0
    assert any(line.startswith("0 of 2 fetched") for line in drawn_in(shown))
    assert any("sql  waiting for another process that fetches it" in line for line in drawn_in(shown))
    assert [line for line in screen(shown) if line] == ["/a" * 60, "after"]
