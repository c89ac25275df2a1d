"""What a terminal shows while a command works: never too wide, gone at the end, and no output lost to it."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter


def on_a_terminal(
    argv: list[str],
    columns: int,
    rows: int,
    *,
    killed_by: signal.Signals | None = None,
    command: list[str] | None = None,
    folder: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """The code of a whole process on a terminal of that size, and all that it wrote there, on either stream.

    ``killed_by`` is sent once it has drawn something.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = dict(environ or {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"})
    for name in ("COLUMNS", "LINES"):
        env.pop(name, None)
    command = command or [sys.executable, "-m", "lora_cli", *argv]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, cwd=folder, env=env) as process:
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def test_a_narrow_terminal_shows_how_far_it_is_and_keeps_every_line_of_output(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"adapter-with-a-rather-long-name-{number}" for number in range(6)]
    for number, name in enumerate(names):
        weights = bytes([number]) * 200_000
        hub.add(f"org/{name}", {"adapter_config.json": {"r": number}, "adapter_model.safetensors": weights})
    hub.fault("cdn", times=-1, delay_s=0.4)
    monkeypatch.setenv("LORA_CLI_JOBS", "3")
    argv = ["fetch", *(f"org/{name}" for name in [*names, "none"])]
    code, shown = on_a_terminal(argv, columns=60, rows=8)
    assert code == 3
    assert "━" not in shown
    drawn = [line for line in drawn_in(shown) if " of 7 fetched" in line or " of 195.3 KiB" in line]
    assert any("adapter-with-a" in line for line in drawn)
    assert any("fetched, 1 failed" in line for line in drawn)
    assert max(map(len, drawn)) <= 60
    kept = screen(shown)
    assert sum(": downloaded, 2 files" in line for line in kept) == 6
    assert not any(" of 7 fetched" in line for line in kept)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_kill_leaves_a_terminal_that_shows_its_cursor(how: signal.Signals, hub: Hub) -> None:
    hub.add("org/sql", {"adapter_config.json": {"r": 1}, "adapter_model.safetensors": bytes(200_000)})
    hub.fault("cdn", times=-1, delay_s=20)
    code, shown = on_a_terminal(["fetch", "org/sql"], columns=80, rows=8, killed_by=how)
    assert (code in {-how, 130, 143}, "━" in shown) == (True, True)
    assert ("interrupted: downloaded data is kept" in shown) == (how is signal.SIGINT)
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


@pytest.mark.slow
@pytest.mark.usefixtures("judged_adapters")
@pytest.mark.parametrize(("command", "done"), [("warm --device cpu", "verified"), ("validate", "validated")])
def test_stages_are_shown_on_a_terminal_where_anybody_wants_them_and_the_table_alone_is_kept(
    command: str, done: str
) -> None:
    write_adapter(Path("two"), modules=llama_modules(["q_proj"]))
    argv = [*command.split(), "good", "bad", "two", "--base", "base"]
    code, shown = on_a_terminal(argv, columns=70, rows=24)
    assert code == 1
    counts = [line for line in drawn_in(shown) if f" of 3 {done}" in line]
    assert any(line.startswith(f"2 of 3 {done}") for line in counts)
    assert max(map(len, counts)) <= 70
    assert ("the base  load" in shown) == (done == "verified")
    kept = screen(shown)
    assert not any(f" of 3 {done}" in line or "the base  load" in line for line in kept)
    assert any(line.startswith("bad") for line in kept)
    for flag in ("--quiet", "--verbose"):
        code, shown = on_a_terminal([flag, *argv], columns=70, rows=24)
        assert (code, f" of 3 {done}" in shown, "\x1b[2K" in shown) == (1, False, False)
