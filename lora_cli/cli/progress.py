"""Progress on standard error: drawn by rich on a terminal, and removed at the end; single lines elsewhere."""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from lora_cli.cli.output import to_stderr
from lora_cli.core.grouping import by_key
from lora_cli.core.text import counted, cut, duration, safe, size
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.progress import Task

MAX_ROWS = 12
REFRESH_PER_S = 8
SPEED_WINDOW_S = 3
RATE_FROM, LEFT_FROM, BAR_FROM = 50, 70, 78
"""The least columns of a terminal that shows rates, the remaining time, and bars."""


class LineProgress(Progress):
    """Writes a line when it waits for another process; shows nothing else."""

    def waiting(self, adapter: str) -> None:
        """Writes the line."""
        to_stderr(f"{safe(adapter)}: waiting for another process that fetches it")


class FetchProgress(LineProgress):
    """A fetch of ``count`` adapters. rich.progress has a task for each file; its first task counts all bytes.

    The tasks advance when they are drawn, also by 0 bytes: otherwise two chunks that come at once make a speed.
    """

    def __init__(self, count: int, get_time: Callable[[], float] = time.monotonic) -> None:
        from rich.progress import Progress as Tasks

        self._count = count
        self._tasks = Tasks(auto_refresh=False, speed_estimate_period=SPEED_WINDOW_S, get_time=get_time)
        self._ids = {"": self._tasks.add_task("", total=None)}
        self._here = Counter[str]()
        self._lock = threading.Lock()

    def began(self, file: str, size: int | None, have: int) -> None:
        """A download begins; ``have`` bytes of it are already on this disk."""
        self._here[file] = have
        if file in self._ids:
            self._tasks.reset(self._ids[file], completed=have, visible=True)
        else:
            self._ids[file] = self._tasks.add_task(file, total=size, completed=have)

    def advanced(self, file: str, count: int) -> None:
        """``count`` more bytes were downloaded."""
        with self._lock:
            self._here.update({file: count, "": count})

    def ended(self, file: str) -> None:
        """The download of a file is complete."""
        if file in self._ids:
            self._tasks.update(self._ids[file], visible=False)

    def adapter_ended(self, adapter: str) -> None:
        """An adapter is complete. A cached one, without downloads, counts as one with an empty file."""
        self.began(f"{adapter}: ", 0, 0)
        self.ended(f"{adapter}: ")

    def files(self) -> "tuple[dict[str, list[Task]], dict[str, list[Task]]]":
        """The files of each started adapter, and of each that is in progress."""
        for task in self._tasks.tasks:
            came = self._here[task.description] - task.completed
            if came or task.visible:
                self._tasks.advance(task.id, came)
        adapters = by_key((file.description.rpartition(": ")[0], file) for file in self._tasks.tasks[1:])
        return adapters, {name: files for name, files in adapters.items() if any(file.visible for file in files)}

    def drawn(self, width: int, height: int) -> "RenderableType":
        """A row for each adapter in progress, the number of others, and a total: at most ``MAX_ROWS``."""
        from rich.table import Table

        adapters, under_way = self.files()
        room = max(min(MAX_ROWS, height - 1) - 1, 0)
        shown = len(under_way) if len(under_way) <= room else max(room - 1, 0)
        table = Table.grid(padding=(0, 1))
        for name, files in list(under_way.items())[:shown]:
            table.add_row(*_cells(name, *_bytes(files), width))
        if shown < len(under_way) and room:
            table.add_row(f"and {len(under_way) - shown} more")
        if self._count > 1 or not under_way:
            ended = min(len(adapters) - len(under_way), self._count)
            everything, *files = self._tasks.tasks
            known = int(sum(max(file.total or 0, file.completed) for file in files))
            estimate = known * max(self._count, len(adapters)) // max(len(adapters), 1)
            about = "~" if len(adapters) < self._count else ""
            name = f"{ended} of {counted(self._count, 'adapter')}"
            table.add_row(*_cells(name, _bytes(files)[0], estimate, everything.speed or 0, width, about))
        return table


class RunProgress(FetchProgress):
    """A run over adapters: the current one with its stage and bytes, and how many are ``done`` (e.g. accepted)."""

    def __init__(self, count: int, done: str = "accepted", get_time: Callable[[], float] = time.monotonic) -> None:
        super().__init__(1, get_time)
        self._began_s = get_time()
        self._name, self._stage, self._failed = "", "", 0
        self.begin_part(done, count)

    def set_stage(self, name: str, stage: str) -> None:
        """An adapter's stage begins."""
        self._name, self._stage = name, stage

    def waiting(self, adapter: str) -> None:
        """Another process fetches the same adapter."""
        self.set_stage(adapter, "waiting for another process that fetches it")

    def count_adapter(self, *, failed: bool) -> None:
        """An adapter has finished this part of the run; one that ``failed`` is not in the next part."""
        self._passed += not failed
        self._failed += failed

    def begin_part(self, done: str, count: int) -> None:
        """Starts the next part of the run, which has ``count`` adapters."""
        self._name, self._done, self._passed, self._to_pass = "", done, 0, count

    def drawn(self, width: int, height: int) -> "RenderableType":
        """The current adapter with its stage and bytes; the numbers of done and failed ones, and the elapsed time."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        lines: list[RenderableType] = []
        if self._name:
            line = f"{cut(safe(self._name), max(width // 2, 8))}  {safe(self._stage)}"
            _, under_way = self.files()
            rows = [_bytes(files) for files in under_way.values()][:1] if width >= RATE_FROM else []
            figures = [cell for row in rows for cell in _cells("", *row, min(width, LEFT_FROM))[1:]]
            now = Table.grid(padding=(0, 1))
            now.add_row(Text(line, no_wrap=True, overflow="crop"), *figures)
            lines.append(now)
        failed = f", {self._failed} failed" if self._failed else ""
        elapsed = duration(self._tasks.get_time() - self._began_s)
        line = f"{self._passed} of {self._to_pass} {self._done}{failed}, {elapsed}"
        bar = [ProgressBar(self._to_pass, self._passed, 24)] if self._to_pass > 1 and width >= RATE_FROM else []
        whole = Table.grid(padding=(0, 1))
        whole.add_row(*bar, Text(line, no_wrap=True, overflow="crop"))
        return Group(*lines, whole)


@contextmanager
def fetch_progress(settings: Settings, count: int) -> Iterator[Progress]:
    """Shows the progress while ``count`` adapters are fetched."""
    if not is_interactive(settings):
        yield SILENT if settings.quiet else LineProgress()
        return
    progress = FetchProgress(count)
    with _live(progress):
        yield progress


@contextmanager
def stage_progress(settings: Settings, count: int) -> Iterator[RunProgress]:
    """Shows the progress while ``count`` adapters are warmed; with ``--verbose`` ``log_stage`` writes lines instead."""
    staged = RunProgress(count)
    with _live(staged) if is_interactive(settings) else nullcontext():
        yield staged


@contextmanager
def count_progress(settings: Settings, count: int, done: str) -> Iterator[Callable[[bool], None]]:
    """Shows how many of ``count`` adapters are ``done`` and failed; the yielded function is called for each.

    Only the calling thread draws, since it may fork.
    """
    if count < 2 or not is_interactive(settings):
        yield lambda failed: None
        return
    staged = RunProgress(count, done)
    with _live(staged, threaded=False) as live:

        def passed(failed: bool) -> None:
            staged.count_adapter(failed=failed)
            live.refresh()

        yield passed


def is_interactive(settings: Settings) -> bool:
    """Whether progress is drawn: standard error is a terminal, and no option forbids it."""
    if settings.quiet or settings.no_progress or settings.verbose or not sys.stderr.isatty():
        return False
    return os.environ.get("TERM") != "dumb" and os.environ.get("TTY_INTERACTIVE") != "0"


@contextmanager
def _live(shown: FetchProgress, *, threaded: bool = True) -> "Iterator[Live]":
    """Draws the progress, in a thread or when refreshed.

    With a thread, lines written to standard error appear above it.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, soft_wrap=threaded, highlight=False)
    live = Live(
        console=console,
        get_renderable=lambda: shown.drawn(console.width, console.height),
        transient=True,
        auto_refresh=threaded,
        refresh_per_second=REFRESH_PER_S,
        redirect_stdout=False,
        redirect_stderr=threaded,
    )
    live.start(refresh=not threaded)
    console.show_cursor(True)  # a killed process must not leave it hidden
    try:
        yield live
    finally:
        with suppress(OSError):  # the terminal is closed
            live.stop()


def _bytes(files: "Sequence[Task]") -> tuple[int, int | None, float]:
    """The downloaded bytes of files, their total (None if unknown), and the bytes per second."""
    sizes = [file.total for file in files if file.total is not None]
    total = int(sum(sizes)) if len(sizes) == len(files) else None
    return int(sum(file.completed for file in files)), total, sum(file.speed or 0 for file in files if file.visible)


def _cells(
    name: str, done: int, total: int | None, per_s: float, width: int, about: str = ""
) -> "list[RenderableType]":
    """Name, bar, bytes, rate and remaining time, as far as the width allows."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    left = (total or 0) - done if per_s >= 1 else 0
    figures = [
        (0, size(done) if total is None else f"{size(done)} of {about}{size(total)}"),
        (RATE_FROM, f"{size(int(per_s))}/s" if per_s >= 1 else ""),
        (LEFT_FROM, f"{about}{duration(left / per_s)} left" if left > 0 else ""),
    ]
    bar_width = 0 if width < BAR_FROM else 12 if width < 100 else 24
    bar = [ProgressBar(total or 1, done if total else 0, bar_width)] if bar_width else []
    room = max(width - bar_width - (56 if width >= LEFT_FROM else 40), 20)
    cells = [Text(figure, no_wrap=True, justify="right") for least, figure in figures if width >= least]
    return [Text(cut(safe(name), room), no_wrap=True), *bar, *cells]
