"""Progress on standard error: drawn by rich on a terminal and gone at the end; single lines elsewhere."""

import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_cli.cli.output import to_stderr
from lora_cli.core.grouping import by_key
from lora_cli.core.snapshot import Snapshot
from lora_cli.core.text import counted, cut, duration, safe, size
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

REFRESH_PER_S = 8.0
MOST_ROWS = 12
SPEED_OVER_S = 3.0
RATE_FROM, LEFT_FROM, BAR_FROM = 50, 70, 78
"""Columns of the terminal from which on rates, the time that is left, and bars are shown."""


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter under way: ``done`` bytes of ``total`` (None: unknown), and bytes ``per_s`` over the last seconds."""

    name: str
    done: int
    total: int | None
    per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Meter:
    """A fetch at one moment: the adapters under way, and the sum of all, of which ``ended`` of ``count`` are through.

    The total of the sum is an estimate while not every adapter's size is known (``exact``).
    """

    rows: tuple[Row, ...]
    sum: Row
    ended: int
    count: int
    exact: bool


class Lines(Progress):
    """Writes only what a log should have: that another process is waited for."""

    def waiting(self, adapter: str) -> None:
        """One line."""
        to_stderr(f"{safe(adapter)}: another process fetches it; waiting for it")


class Tally(Lines):
    """What is known of a fetch: every file that began, its bytes here and its size; which are under way."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._files: dict[str, tuple[int, int | None]] = {}
        self._under_way: set[str] = set()
        self._through: set[str] = set()
        self._arrived: Counter[str] = Counter()
        self._samples: dict[str, deque[tuple[float, int]]] = {}
        self._lock = threading.Lock()

    def began(self, file: str, size: int | None, have: int) -> None:
        """``have`` bytes of a file are here already."""
        with self._lock:
            self._files[file] = (have, size)
            self._under_way.add(file)

    def advanced(self, file: str, count: int) -> None:
        """``count`` bytes more."""
        with self._lock:
            have, size = self._files.get(file, (0, None))
            self._files[file] = (have + count, size)
            self._arrived[_adapter(file)] += count

    def ended(self, file: str) -> None:
        """Nothing more comes of it."""
        with self._lock:
            self._under_way.discard(file)

    def through(self, adapter: str) -> None:
        """Nothing more comes of that adapter."""
        with self._lock:
            self._through.add(adapter)

    def meter(self, now_s: float) -> Meter:
        """All of it at this moment of a monotonic clock."""
        with self._lock:
            by_adapter = by_key((_adapter(file), amount) for file, amount in self._files.items())
            busy = dict.fromkeys(_adapter(file) for file in self._files if file in self._under_way)
            rows = {name: self._row(name, by_adapter[name], self._arrived[name], now_s) for name in busy}
            every = [amount for amounts in by_adapter.values() for amount in amounts]
            known = sum(have if size is None else max(size, have) for have, size in every)
            seen = len(by_adapter.keys() | self._through) or 1
            whole = self._row("", every, self._arrived.total(), now_s)
            return Meter(
                rows=tuple(rows.values()),
                sum=replace(whole, total=known * max(self._count, seen) // seen),
                ended=min(len((by_adapter.keys() | self._through) - busy.keys()), self._count),
                count=self._count,
                exact=seen >= self._count,
            )

    def _row(self, name: str, files: Sequence[tuple[int, int | None]], arrived: int, now_s: float) -> Row:
        samples = self._samples.setdefault(name, deque())
        samples.append((now_s, arrived))
        while now_s - samples[0][0] > SPEED_OVER_S:
            samples.popleft()
        since_s, before = samples[0]
        per_s = max((arrived - before) / (now_s - since_s), 0.0) if now_s > since_s else 0.0
        sizes = [size for _, size in files if size is not None]
        return Row(name, sum(have for have, _ in files), sum(sizes) if len(sizes) == len(files) else None, per_s)


def _adapter(file: str) -> str:
    return file.rpartition(": ")[0] or file


class Staged(Tally):
    """A warm run: the adapter at hand and its ``stage``, its bytes, and how many are ``done`` (accepted, say)."""

    def __init__(self, count: int, done: str = "accepted") -> None:
        super().__init__(1)
        self._began_s = time.monotonic()
        self.name, self.stage, self.done = "", "", done
        self.passes, self.count, self.failed = 0, count, 0

    def hear(self, name: str, stage: str, _snapshot: Snapshot | None = None) -> None:
        """An adapter's stage begins."""
        self.name, self.stage = name, stage

    def waiting(self, adapter: str) -> None:
        """Another process fetches the same adapter."""
        self.hear(adapter, "waits for another process that fetches it")

    def passed(self, *, failed: bool) -> None:
        """An adapter is through this part of the run; one that ``failed`` goes no further."""
        self.passes += not failed
        self.failed += failed

    def go_on(self, done: str, count: int) -> None:
        """The next part of the run: ``count`` adapters are to be ``done``."""
        self.name, self.done, self.passes, self.count = "", done, 0, count

    def told(self, now_s: float) -> str:
        """How many are done and failed, and for how long the run goes on."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.passes} of {self.count} {self.done}{failed}, {duration(now_s - self._began_s)}"


@contextmanager
def shown_progress(settings: Settings, count: int) -> Iterator[Progress]:
    """What is shown while ``count`` adapters are fetched; gone afterwards."""
    if not is_drawn(settings):
        yield SILENT if settings.quiet else Lines()
        return
    tally = Tally(count)
    with _drawn(lambda console: drawn_meter(tally.meter(time.monotonic()), console.width, console.height)):
        yield tally


@contextmanager
def shown_stages(settings: Settings, count: int) -> Iterator[Staged]:
    """What is shown while ``count`` adapters are warmed; with ``--verbose`` ``tell_stage`` writes lines instead."""
    staged = Staged(count)
    drawing = _drawn(lambda console: drawn_stages(staged, time.monotonic(), console.width))
    with drawing if is_drawn(settings) else nullcontext():
        yield staged


@contextmanager
def shown_count(settings: Settings, count: int, done: str) -> Iterator[Callable[[bool], None]]:
    """How many of ``count`` adapters are ``done``, and how many failed: what is yielded is called with each.

    It is drawn by the calling thread alone, which may fork meanwhile.
    """
    if count < 2 or not is_drawn(settings):
        yield lambda failed: None
        return
    staged = Staged(count, done)
    with _drawn(lambda console: drawn_stages(staged, time.monotonic(), console.width), threaded=False) as live:

        def passed(failed: bool) -> None:
            staged.passed(failed=failed)
            live.refresh()

        yield passed


def is_drawn(settings: Settings) -> bool:
    """Whether there is a terminal to draw on, and drawing is wanted."""
    if settings.quiet or settings.no_progress or settings.verbose or not sys.stderr.isatty():
        return False
    return os.environ.get("TERM") != "dumb" and os.environ.get("TTY_INTERACTIVE") != "0"


@contextmanager
def _drawn(drawing: "Callable[[Console], RenderableType]", *, threaded: bool = True) -> "Iterator[Live]":
    """Draws again and again, in a thread or when it is told to.

    With a thread, what is written to standard error meanwhile stands above it.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, soft_wrap=threaded, highlight=False)
    live = Live(
        console=console,
        get_renderable=lambda: drawing(console),
        transient=True,
        auto_refresh=threaded,
        refresh_per_second=REFRESH_PER_S,
        redirect_stdout=False,
        redirect_stderr=threaded,
    )
    live.start(refresh=not threaded)
    console.show_cursor(True)  # a kill leaves a terminal that shows it
    try:
        yield live
    finally:
        with suppress(OSError):  # the terminal is gone
            live.stop()


def drawn_meter(meter: Meter, width: int, height: int) -> "RenderableType":
    """A row for each adapter under way, how many more there are, and the sum of all: at most ``MOST_ROWS``."""
    from rich.table import Table

    room = max(min(MOST_ROWS, height - 1) - 1, 0)
    shown = meter.rows if len(meter.rows) <= room else meter.rows[: max(room - 1, 0)]
    table = Table.grid(padding=(0, 1))
    for row in shown:
        table.add_row(*_cells(row, row.name, width))
    if len(shown) < len(meter.rows) and room:
        table.add_row(f"and {len(meter.rows) - len(shown)} more")
    if meter.count > 1 or not meter.rows:
        name = f"{meter.ended} of {counted(meter.count, 'adapter')}"
        table.add_row(*_cells(meter.sum, name, width, "" if meter.exact else "~"))
    return table


def drawn_stages(staged: Staged, now_s: float, width: int) -> "RenderableType":
    """The adapter at hand with its stage and its bytes, and how many are done."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    lines: list[RenderableType] = []
    if staged.name:
        line = Text(
            f"{cut(safe(staged.name), max(width // 2, 8))}  {safe(staged.stage)}", no_wrap=True, overflow="crop"
        )
        now = Table.grid(padding=(0, 1))
        rows = staged.meter(now_s).rows[:1] if width >= RATE_FROM else ()
        now.add_row(line, *(cell for row in rows for cell in _cells(row, "", min(width, BAR_FROM - 1))[1:]))
        lines.append(now)
    whole = Table.grid(padding=(0, 1))
    bar = [ProgressBar(staged.count, staged.passes, 24)] if staged.count > 1 and width >= RATE_FROM else []
    whole.add_row(*bar, Text(staged.told(now_s), no_wrap=True, overflow="crop"))
    return Group(*lines, whole)


def _cells(row: Row, name: str, width: int, about: str = "") -> "list[RenderableType]":
    """Name, bar, bytes, bytes a second and the time that is left; what there is no room for is left out."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    left = (row.total or 0) - row.done if row.per_s >= 1 else 0
    written = [
        (0, size(row.done) if row.total is None else f"{size(row.done)} of {about}{size(row.total)}"),
        (RATE_FROM, f"{size(int(row.per_s))}/s" if row.per_s >= 1 else ""),
        (LEFT_FROM, f"{about}{duration(left / row.per_s)} left" if left > 0 else ""),
    ]
    bar_width = 0 if width < BAR_FROM else 12 if width < 100 else 24
    bar = [ProgressBar(row.total or 1, row.done if row.total else 0, bar_width)] if bar_width else []
    room = max(width - bar_width - (56 if width >= LEFT_FROM else 40), 20)
    cells = [Text(cell, no_wrap=True, justify="right") for least, cell in written if width >= least]
    return [Text(cut(safe(name), room), no_wrap=True), *bar, *cells]
