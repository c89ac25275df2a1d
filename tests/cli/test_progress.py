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
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from lora_cli.cli.progress import Meter, Row, Staged, Tally, drawn_meter, drawn_stages
from lora_cli.core.text import duration
from tests.hub_server import Hub

MIB = 1 << 20
ROWS = (
    Row("sql", 42 * MIB, 84 * MIB, 21 * MIB),
    Row("chat", 0, None),
    Row("a-name-that-is-rather-long-v2", 84 * MIB, 84 * MIB, MIB),
)
METER = Meter(ROWS, Row("", 1300 * MIB, 4200 * MIB, 85.3 * MIB), 12, 200, exact=False)


def drawn(drawing: RenderableType, width: int, height: int = 24, encoding: str = "utf-8") -> list[str]:
    """The lines of a drawing, as the console of a terminal of that size writes them."""
    file = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    Console(file=file, width=width, height=height, soft_wrap=True, highlight=False).print(drawing)
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


def test_a_fetch_shows_bars_bytes_rates_and_what_is_left() -> None:
    assert drawn(drawn_meter(METER, 100, 24), 100) == [
        "sql                  ━━━━━━━━━━━━             42.0 MiB of 84.0 MiB 21.0 MiB/s   2 s left",
        "chat                                                           0 B",
        "a-name-tha…r-long-v2 ━━━━━━━━━━━━━━━━━━━━━━━━ 84.0 MiB of 84.0 MiB  1.0 MiB/s",
        "12 of 200 adapters   ━━━━━━━                   1.3 GiB of ~4.1 GiB 85.3 MiB/s ~34 s left",
    ]


def test_on_a_narrow_terminal_the_bars_go_first_and_the_end_of_a_name_stays() -> None:
    assert drawn(drawn_meter(METER, 60, 24), 60)[0].endswith(" 42.0 MiB of 84.0 MiB 21.0 MiB/s")
    lines = drawn(drawn_meter(METER, 48, 24), 48)
    assert lines[0].split() == ["sql", "42.0", "MiB", "of", "84.0", "MiB"]
    assert lines[2].startswith("a-name-tha…r-long-v2 ")
    assert lines[-1] == "12 of 200 adapters    1.3 GiB of ~4.1 GiB"


def test_adapters_that_do_not_fit_are_counted() -> None:
    rows = tuple(Row(f"a{number}", 1, 2) for number in range(200))
    meter = Meter(rows, Row("", 200, 400), 0, 500, exact=False)
    assert [line.split()[0] for line in drawn(drawn_meter(meter, 60, 7), 60)] == ["a0", "a1", "a2", "a3", "and", "0"]
    lines = drawn(drawn_meter(meter, 60, 50), 60)
    assert len(lines) == 12
    assert lines[-2:] == ["and 190 more", "0 of 500 adapters 200 B of ~400 B"]


def test_one_adapter_is_not_counted_and_ascii_is_enough_where_there_is_no_more() -> None:
    meter = Meter((Row("sql", 42 * MIB, 84 * MIB, MIB),), Row("", 42 * MIB, 84 * MIB), 0, 1, exact=True)
    (line,) = drawn(drawn_meter(meter, 80, 24), 80, encoding="ascii")
    assert line.isascii()
    assert line.startswith("sql ------ ")
    assert line.endswith(" 42.0 MiB of 84.0 MiB 1.0 MiB/s 42 s left")


KINDS = st.builds(
    Row, st.text(max_size=200), st.integers(0, 2**50), st.none() | st.integers(0, 2**50), st.floats(0, 1e12)
)


@given(st.lists(KINDS, max_size=20), KINDS, st.integers(20, 130), st.integers(1, 30))
def test_nothing_is_ever_wider_or_higher_than_the_terminal(
    rows: list[Row], whole: Row, width: int, height: int
) -> None:
    lines = drawn(drawn_meter(Meter(tuple(rows), whole, 3, 20, exact=True), width, height), width)
    assert len(lines) <= height
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")]
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_tally_sums_files_to_adapters_and_estimates_what_is_not_known_yet() -> None:
    tally = Tally(4)
    tally.began("a: adapter_config.json", 100, 0)
    tally.began("a: adapter_model.safetensors", 900, 300)
    tally.advanced("a: adapter_config.json", 100)
    tally.ended("a: adapter_config.json")
    meter = tally.meter(10.0)
    assert meter.rows == (Row("a", 400, 1000),)
    assert (meter.sum, meter.exact, meter.ended) == (Row("", 400, 4000), False, 0)
    tally.advanced("a: adapter_model.safetensors", 600)
    tally.ended("a: adapter_model.safetensors")
    for name in "bcd":
        tally.through(name)
    meter = tally.meter(12.0)
    assert (meter.rows, meter.ended, meter.sum, meter.exact) == ((), 4, Row("", 1000, 1000, 300.0), True)


def test_bytes_that_were_wrong_and_come_again_are_not_counted_twice() -> None:
    tally = Tally(1)
    tally.began("a: x", 100, 0)
    tally.advanced("a: x", 100)
    tally.advanced("a: x", -100)
    tally.ended("a: x")
    tally.began("a: x", 100, 0)
    tally.advanced("a: x", 40)
    meter = tally.meter(1.0)
    assert (meter.sum, meter.rows) == (Row("", 40, 100), (Row("a", 40, 100),))


def test_each_adapter_has_a_rate_of_its_own() -> None:
    tally = Tally(2)
    for name in "ab":
        tally.began(f"{name}: x", 1000, 500)
    tally.meter(10.0)
    tally.advanced("a: x", 300)
    meter = tally.meter(12.0)
    assert [row.per_s for row in meter.rows] == [150.0, 0.0]
    assert meter.sum.per_s == 150.0
    assert tally.meter(20.0).sum.per_s == 0.0


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
        argv = ["fetch", "--cache-dir", str(tmp_path / "c"), "--jobs", "3", *(f"org/{name}" for name in names)]
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


def staged(name: str, stage: str, passed: int, count: int, failed: int = 0) -> Staged:
    made = Staged(count)
    made.go_on("proved", count)
    made.hear(name, stage)
    for number in range(passed + failed):
        made.passed(failed=number >= passed)
    return made


def test_a_warm_run_shows_the_stage_of_the_adapter_at_hand_and_how_many_are_done() -> None:
    now_s = time.monotonic() + 12.4
    bar = f"{'━╸':24}"
    assert drawn(drawn_stages(staged("sql", "proof", 3, 40), now_s, 80), 80) == [
        "sql  proof",
        f"{bar} 3 of 40 proved, 12 s",
    ]
    assert drawn(drawn_stages(staged("sql", "proof", 3, 40, 2), now_s, 80), 80)[1] == (
        f"{bar} 3 of 40 proved, 2 failed, 12 s"
    )
    assert drawn(drawn_stages(staged("", "", 1, 1), now_s, 80), 80) == ["1 of 1 proved, 12 s"]


def test_a_warm_run_shows_bytes_where_there_is_room() -> None:
    warm = staged("sql", "fetch", 0, 1)
    warm.began("sql: x", 84 * MIB, 42 * MIB)
    assert drawn(drawn_stages(warm, time.monotonic(), 80), 80)[0] == "sql  fetch 42.0 MiB of 84.0 MiB"
    assert drawn(drawn_stages(warm, time.monotonic(), 30), 30)[0] == "sql  fetch"


@given(st.text(), st.sampled_from(["proof", "waits for another process that fetches it"]), st.integers(12, 200))
def test_no_line_of_a_warm_run_is_wider_than_the_terminal(name: str, stage: str, width: int) -> None:
    warm = staged(name, stage, 3, 40, 7)
    warm.began(f"{name}: x", 10, 5)
    lines = drawn(drawn_stages(warm, time.monotonic(), width), width)
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
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


def test_what_is_written_to_standard_error_meanwhile_stands_above_the_drawing() -> None:
    script = (
        "import time\n"
        "from pathlib import Path\n"
        "from lora_cli.cli.output import to_stderr\n"
        "from lora_cli.cli.progress import shown_progress\n"
        "from lora_cli.settings import Settings\n"
        "with shown_progress(Settings(Path()), 2) as shown:\n"
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
        "sql: another process fetches it; waiting for it",
        "/a" * 60,
        "after",
    ]
