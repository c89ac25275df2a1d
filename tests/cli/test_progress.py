"""What a terminal shows while adapters are fetched: never too wide, gone at the end, and no output lost to it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from lora_cli.cli.tally import Tally
from lora_cli.render.human.meter import Row
from tests.hub_server import Hub


def test_a_tally_sums_files_to_adapters_and_estimates_what_is_not_known_yet() -> None:
    tally = Tally(4)
    tally.began("a: adapter_config.json", 100, 0)
    tally.began("a: adapter_model.safetensors", 900, 300)
    tally.advanced("a: adapter_config.json", 100)
    tally.ended("a: adapter_config.json")
    meter = tally.meter(10.0)
    assert meter.rows == (Row("a", 400, 1000),)
    assert (meter.done, meter.expected, meter.exact, meter.ended) == (400, 4000, False, 0)
    tally.advanced("a: adapter_model.safetensors", 600)
    tally.ended("a: adapter_model.safetensors")
    for name in "bcd":
        tally.through(name)
    meter = tally.meter(12.0)
    assert (meter.rows, meter.ended, meter.expected, meter.exact, meter.per_s) == ((), 4, 1000, True, 300.0)


def test_bytes_that_were_wrong_and_come_again_are_not_counted_twice() -> None:
    tally = Tally(1)
    tally.began("a: x", 100, 0)
    tally.advanced("a: x", 100)
    tally.advanced("a: x", -100)
    tally.ended("a: x")
    tally.began("a: x", 100, 0)
    tally.advanced("a: x", 40)
    meter = tally.meter(1.0)
    assert (meter.done, meter.expected, meter.rows) == (40, 100, (Row("a", 40, 100),))


def on_a_terminal(argv: list[str], columns: int, rows: int) -> tuple[int, str]:
    """The code of a whole process on a terminal of that size, and all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "lora_cli", *argv]
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
        os.close(ours)
    return process.returncode, shown.decode()


def screen(shown: str) -> list[str]:
    """The lines that are left of what was written, as a terminal that is high enough keeps them."""
    lines, at = [""], 0
    for part in re.split(r"(\x1b\[A|\x1b\[J|\r\n|\r|\n)", shown):
        if part == "\x1b[A":
            at -= 1
        elif part == "\x1b[J":
            del lines[at + 1 :]
            lines[at] = ""
        elif part in {"\r\n", "\n"}:
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif part != "\r":
            lines[at] += part
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


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
        argv = ["fetch", "--cache-dir", str(tmp_path / "c"), "--jobs", "3", *(f"org/{name}" for name in names)]
        code, shown = on_a_terminal(argv, columns=60, rows=8)
    assert code == 0
    drawn = [line for line in re.split(r"\x1b\[[AJ]|\r|\n", shown) if " of " in line]
    assert any(" of 6 adapters, " in line for line in drawn)
    assert any(" B of 195.3 KiB" in line or "KiB of 195.3 KiB" in line for line in drawn)
    assert max(map(len, drawn)) < 60
    kept = screen(shown)
    assert [line.split()[0] for line in kept if "2 files" in line] == [f"org/{name}" for name in names]
    assert sum(str(tmp_path) in line for line in kept) == 6
    assert not any(" of 6 adapters" in line for line in kept)
