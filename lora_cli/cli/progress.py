"""Progress on standard error: drawn by rich on a terminal and gone at the end; single lines elsewhere."""

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

MOST_ROWS = 12
REFRESH_PER_S = 8
SPEED_OVER_S = 3
RATE_FROM, LEFT_FROM, BAR_FROM = 50, 70, 78
"""Columns of the terminal from which on rates, the time that is left, and bars are shown."""


class Lines(Progress):
    """Logs only that it waits for another process."""

    def waiting(self, adapter: str) -> None:
        """One line."""
        to_stderr(f"{safe(adapter)}: waiting for another process that fetches it")


class FetchProgress(Lines):
    """A fetch of ``count`` adapters. rich.progress has a task for each file; its first task counts all bytes.

    The tasks advance when they are drawn, also by 0 bytes: otherwise two chunks that come at once make a speed.
    """

    def __init__(self, count: int, get_time: Callable[[], float] = time.monotonic) -> None:
        from rich.progress import Progress as Tasks

        self._count = count
        self._tasks = Tasks(auto_refresh=False, speed_estimate_period=SPEED_OVER_S, get_time=get_time)
        self._ids = {"": self._tasks.add_task("", total=None)}
        self._here = Counter[str]()
        self._lock = threading.Lock()

    def began(self, file: str, size: int | None, have: int) -> None:
        """``have`` bytes of a file are here already."""
        self._here[file] = have
        if file in self._ids:
            self._tasks.reset(self._ids[file], completed=have, visible=True)
        else:
            self._ids[file] = self._tasks.add_task(file, total=size, completed=have)

    def advanced(self, file: str, count: int) -> None:
        """``count`` bytes more."""
        with self._lock:
            self._here.update({file: count, "": count})

    def ended(self, file: str) -> None:
        """It is finished."""
        if file in self._ids:
            self._tasks.update(self._ids[file], visible=False)

    def adapter_ended(self, adapter: str) -> None:
        """The adapter is finished. One that was here already counts as one with a file of no bytes."""
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
        """A row for each adapter under way, how many more there are, and the sum of all: at most ``MOST_ROWS``."""
        from rich.table import Table

        adapters, under_way = self.files()
        room = max(min(MOST_ROWS, height - 1) - 1, 0)
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
    """A run over adapters: the one at hand, its stage and its bytes, and how many are ``done`` (accepted, say)."""

    def __init__(self, count: int, done: str = "accepted", get_time: Callable[[], float] = time.monotonic) -> None:
        super().__init__(1, get_time)
        self._began_s = get_time()
        self._name, self._stage, self._failed = "", "", 0
        self.go_on(done, count)

    def hear(self, name: str, stage: str) -> None:
        """An adapter's stage begins."""
        self._name, self._stage = name, stage

    def waiting(self, adapter: str) -> None:
        """Another process fetches the same adapter."""
        self.hear(adapter, "waiting for another process that fetches it")

    def passed(self, *, failed: bool) -> None:
        """An adapter is through this part of the run; one that ``failed`` goes no further."""
        self._passed += not failed
        self._failed += failed

    def go_on(self, done: str, count: int) -> None:
        """The next part of the run: ``count`` adapters are to be ``done``."""
        self._name, self._done, self._passed, self._to_pass = "", done, 0, count

    def drawn(self, width: int, height: int) -> "RenderableType":
        """The adapter at hand with its stage and its bytes; how many are done and failed, and since when."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        lines: list[RenderableType] = []
        if self._name:
            line = f"{cut(safe(self._name), max(width // 2, 8))}  {safe(self._stage)}"
            _, under_way = self.files()
            rows = [_bytes(files) for files in under_way.values()][:1] if width >= RATE_FROM else []
            figures = [cell for row in rows for cell in _cells("", *row, min(width, BAR_FROM - 1))[1:]]
            now = Table.grid(padding=(0, 1))
            now.add_row(Text(line, no_wrap=True, overflow="crop"), *figures)
            lines.append(now)
        failed = f", {self._failed} failed" if self._failed else ""
        elapsed = duration(self._tasks.get_time() - self._began_s)
        told = f"{self._passed} of {self._to_pass} {self._done}{failed}, {elapsed}"
        bar = [ProgressBar(self._to_pass, self._passed, 24)] if self._to_pass > 1 and width >= RATE_FROM else []
        whole = Table.grid(padding=(0, 1))
        whole.add_row(*bar, Text(told, no_wrap=True, overflow="crop"))
        return Group(*lines, whole)


@contextmanager
def shown_progress(settings: Settings, count: int) -> Iterator[Progress]:
    """What is shown while ``count`` adapters are fetched; gone afterwards."""
    if not is_drawn(settings):
        yield SILENT if settings.quiet else Lines()
        return
    progress = FetchProgress(count)
    with _live(progress):
        yield progress


@contextmanager
def shown_stages(settings: Settings, count: int) -> Iterator[RunProgress]:
    """What is shown while ``count`` adapters are warmed; with ``--verbose`` ``tell_stage`` writes lines instead."""
    staged = RunProgress(count)
    with _live(staged) if is_drawn(settings) else nullcontext():
        yield staged


@contextmanager
def shown_count(settings: Settings, count: int, done: str) -> Iterator[Callable[[bool], None]]:
    """How many of ``count`` adapters are ``done``, and how many failed: what is yielded is called with each.

    It is drawn by the calling thread alone, which may fork meanwhile.
    """
    if count < 2 or not is_drawn(settings):
        yield lambda failed: None
        return
    staged = RunProgress(count, done)
    with _live(staged, threaded=False) as live:

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
def _live(shown: FetchProgress, *, threaded: bool = True) -> "Iterator[Live]":
    """Draws again and again, in a thread or on request.

    With a thread, what is written to standard error meanwhile is above it.
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
    console.show_cursor(True)  # a kill leaves a terminal that shows it
    try:
        yield live
    finally:
        with suppress(OSError):  # the terminal is gone
            live.stop()


def _bytes(files: "Sequence[Task]") -> tuple[int, int | None, float]:
    """How many bytes of some files are here, how many they have (None: unknown), and how many come in a second."""
    sizes = [file.total for file in files if file.total is not None]
    total = int(sum(sizes)) if len(sizes) == len(files) else None
    return int(sum(file.completed for file in files)), total, sum(file.speed or 0 for file in files if file.visible)


def _cells(
    name: str, done: int, total: int | None, per_s: float, width: int, about: str = ""
) -> "list[RenderableType]":
    """Name, bar, bytes, bytes a second and the time that is left; what there is no room for is left out."""
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
