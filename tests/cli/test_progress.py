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

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from lora_cli.cli.progress import FetchProgress, RunProgress
from tests.hub_server import Hub

MIB = 1 << 20
LONG = "a-name-that-is-rather-long-v2"


class Clock:
    """A clock that stands still until it is told to go on."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def fetching() -> FetchProgress:
    """Twelve of 200 adapters are here, and three come; after a second."""
    fetch = FetchProgress(200, clock := Clock())
    for number in range(12):
        fetch.adapter_ended(str(number))
    fetch.began("sql: x", 84 * MIB, 0)
    fetch.began("chat: x", None, 40 * MIB)
    fetch.began(f"{LONG}: x", 84 * MIB, 82 * MIB)
    for clock.now_s in (0, 1):
        fetch.advanced("sql: x", 21 * MIB)
        fetch.advanced(f"{LONG}: x", MIB)
        fetch.drawn(80, 24)
    return fetch


def drawn(shown: FetchProgress, width: int, height: int = 24, encoding: str = "utf-8") -> list[str]:
    """The lines of a drawing, as the console of a terminal of that size writes them."""
    file = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    console = Console(file=file, width=width, height=height, soft_wrap=True, highlight=False)
    console.print(shown.drawn(width, height))
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


def test_a_fetch_shows_bars_bytes_rates_and_what_is_left() -> None:
    assert drawn(fetching(), 100) == [
        "sql                  ━━━━━━━━━━━━              42.0 MiB of 84.0 MiB 21.0 MiB/s         2 s left",
        "chat                                                       40.0 MiB",
        "a-name-tha…r-long-v2 ━━━━━━━━━━━━━━━━━━━━━━━━  84.0 MiB of 84.0 MiB  1.0 MiB/s",
        "12 of 200 adapters   ━                        166.0 MiB of ~2.7 GiB 22.0 MiB/s ~1 min 59 s left",
    ]


BYTES = st.integers(0, 2**50)
FILES = st.tuples(st.text(max_size=200), st.none() | BYTES, BYTES, BYTES)


@given(st.lists(FILES, max_size=20), st.integers(0, 30), st.integers(20, 130), st.integers(1, 30))
def test_nothing_is_ever_wider_or_higher_than_the_terminal(
    files: list[tuple[str, int | None, int, int]], count: int, width: int, height: int
) -> None:
    fetch = FetchProgress(count, clock := Clock())
    for name, size, have, more in files:
        fetch.began(f"{name}: x", size, have)
        fetch.advanced(f"{name}: x", more)
        fetch.drawn(width, height)
        clock.now_s += 0.1
        fetch.advanced(f"{name}: x", more)
    lines = drawn(fetch, width, height)
    assert len(lines) <= height
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)


def test_files_are_summed_to_adapters_and_what_is_not_known_yet_is_estimated() -> None:
    fetch = FetchProgress(4)
    fetch.began("a: adapter_config.json", 100, 0)
    fetch.began("a: adapter_model.safetensors", 900, 300)
    fetch.advanced("a: adapter_config.json", 100)
    fetch.ended("a: adapter_config.json")
    assert drawn(fetch, 48) == ["a                 400 B of 1000 B", "0 of 4 adapters 400 B of ~3.9 KiB"]
    fetch.advanced("a: adapter_model.safetensors", 600)
    fetch.ended("a: adapter_model.safetensors")
    for name in "abcd":
        fetch.adapter_ended(name)
    assert drawn(fetch, 48) == ["4 of 4 adapters 1000 B of 1000 B"]


def test_bytes_that_were_wrong_and_come_again_are_not_counted_twice() -> None:
    fetch = FetchProgress(1)
    fetch.began("a: x", 100, 0)
    fetch.advanced("a: x", 100)
    fetch.advanced("a: x", -100)
    fetch.ended("a: x")
    fetch.began("a: x", 100, 0)
    fetch.advanced("a: x", 40)
    assert drawn(fetch, 48) == ["a 40 B of 100 B"]


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
    drawn = [line for line in drawn_in(shown) if " of " in line]
    assert any(" of 6 adapters " in line for line in drawn)
    assert any(" B of 195.3 KiB" in line or "KiB of 195.3 KiB" in line for line in drawn)
    assert max(map(len, drawn)) <= 60
    kept = screen(shown)
    assert [line[len(f"org/{name}") :].split()[0] for name in names for line in kept if line.startswith(f"org/{name} ")]
    assert sum(str(tmp_path) in line for line in kept) == 6
    assert not any(" of 6 adapters" in line for line in kept)


def staged(name: str, stage: str, passed: int, count: int, failed: int = 0) -> RunProgress:
    """A warm run after 12.4 seconds."""
    made = RunProgress(count, get_time=(clock := Clock()))
    made.begin_part("proved", count)
    made.set_stage(name, stage)
    for number in range(passed + failed):
        made.count_adapter(failed=number >= passed)
    clock.now_s = 12.4
    return made


def test_a_warm_run_shows_the_stage_of_the_adapter_at_hand_and_how_many_are_done() -> None:
    bar = f"{'━╸':24}"
    assert drawn(staged("sql", "proof", 3, 40), 80) == ["sql  proof", f"{bar} 3 of 40 proved, 12 s"]
    assert drawn(staged("sql", "proof", 3, 40, 2), 80)[1] == f"{bar} 3 of 40 proved, 2 failed, 12 s"
    assert drawn(staged("", "", 1, 1), 80) == ["1 of 1 proved, 12 s"]


@given(st.text(), st.sampled_from(["proof", "waiting for another process that fetches it"]), st.integers(12, 200))
def test_no_line_of_a_warm_run_is_wider_than_the_terminal(name: str, stage: str, width: int) -> None:
    warm = staged(name, stage, 3, 40, 7)
    warm.began(f"{name}: x", 10, 5)
    lines = drawn(warm, width)
    assert len(lines) <= 2
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)


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
        "from pathlib import Path\n"
        "from lora_cli.cli.output import to_stderr\n"
        "from lora_cli.cli.progress import fetch_progress\n"
        "from lora_cli.settings import Settings\n"
        "with fetch_progress(Settings(Path()), 2) as shown:\n"
        "    shown.began('sql: x', 100, 50)\n"
        "    time.sleep(0.3)\n"
        "    shown.waiting('sql')\n"
        "    to_stderr('/a' * 60)\n"
        "    time.sleep(0.3)\n"
        "to_stderr('after')\n"
    )
    code, shown = on_a_terminal([], columns=70, rows=24, command=[sys.executable, "-c", script])
    assert code == 0
    assert any(line.startswith("0 of 2 adapters") for line in drawn_in(shown))
    assert [line for line in screen(shown) if line] == [
        "sql: waiting for another process that fetches it",
        "/a" * 60,
        "after",
    ]
