"""Progress on standard error: drawn by rich on a terminal, and removed at the end; single lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from lora_cli.cli.output import is_interactive
from lora_cli.fetching.batch import Progress
from lora_cli.settings import Settings
from lora_cli.text import cut, duration, safe

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.progress import TaskID

MAX_ROWS = 12
REFRESH_PER_S = 8
BAR, NAME = 24, 30
WIDE = 80
"""Columns of a terminal with room for bars and rates."""


class FetchProgress(Progress):
    """A fetch of ``count`` adapters: a bar for each that is downloaded, and how many are ``done``."""

    def __init__(self, count: int, done: str = "fetched") -> None:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}", markup=False),
            DownloadColumn(),
            BarColumn(BAR),
            TransferSpeedColumn(),
        )
        self._bars = Bars(*columns, TimeRemainingColumn(compact=True), auto_refresh=False)
        self._columns = self._bars.columns
        self._rows: dict[str, TaskID] = {}
        self._began_s, self._failed, self._line = time.monotonic(), 0, ""
        self.begin_part(done, count)

    def began(self, adapter: str, size: int) -> None:
        """A download begins."""
        self._rows[adapter] = self._bars.add_task(cut(safe(adapter), NAME), total=size)

    def advanced(self, adapter: str, count: int) -> None:
        """``count`` more bytes are here."""
        with suppress(KeyError):  # of two with the same name one may have ended
            self._bars.advance(self._rows[adapter], count)

    def adapter_ended(self, adapter: str, *, failed: bool = False) -> None:
        """An adapter is done with this part of the run; one that ``failed`` is not in the next part."""
        self._passed += not failed
        self._failed += failed
        with suppress(KeyError):  # it was cached
            self._bars.remove_task(self._rows.pop(adapter))

    def begin_part(self, done: str, count: int) -> None:
        """Starts the next part of the run, which has ``count`` adapters."""
        self._line, self._done, self._passed, self._count = "", done, 0, count

    def drawn(self, width: int) -> "RenderableType":
        """The stage at hand, at most ``MAX_ROWS`` bars, and the counts with the elapsed time."""
        from rich.console import Group
        from rich.text import Text

        tasks = [task for task in self._bars.tasks if task.completed < (task.total or 0)]
        more = f"and {len(tasks) - MAX_ROWS} more" if len(tasks) > MAX_ROWS else ""
        failed = f", {self._failed} failed" if self._failed else ""
        elapsed = duration(time.monotonic() - self._began_s)
        counts = f"{self._passed} of {self._count} {self._done}{failed}, {elapsed}"
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in (self._line, more, counts) if line]
        self._bars.columns = self._columns if width >= WIDE else self._columns[:2]
        return Group(*lines[:-1], self._bars.make_tasks_table(tasks[:MAX_ROWS]), lines[-1])


class RunProgress(FetchProgress):
    """A run whose adapters come one after the other, with the stage of the current one."""

    def set_stage(self, name: str, stage: str) -> None:
        """An adapter's stage begins."""
        self._line = f"{cut(safe(name), NAME)}  {safe(stage)}"

    def waiting(self, adapter: str) -> None:
        """Another process fetches the same adapter."""
        self.set_stage(adapter, "waiting for another process that fetches it")


@contextmanager
def fetch_progress(count: int) -> Iterator[Progress]:
    """Shows the progress while ``count`` adapters are fetched."""
    progress = FetchProgress(count)
    with _live(progress):
        yield progress


@contextmanager
def stage_progress(settings: Settings, count: int) -> Iterator[RunProgress]:
    """Shows the progress while ``count`` adapters are warmed; in a pipe nothing."""
    staged = RunProgress(count, "accepted")
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
            staged.adapter_ended("", failed=failed)
            live.refresh()

        yield passed


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
        get_renderable=lambda: shown.drawn(console.width),
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
