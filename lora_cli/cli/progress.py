"""Progress on standard error: bars on a terminal, single lines elsewhere."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import typer

from lora_cli.fetch.progress import Progress, Silent
from lora_cli.render.text import safe
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Shown(Progress, Protocol):
    """Progress that makes room for other text."""

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is shown inside."""
        ...


@contextmanager
def shown_progress(settings: Settings) -> Iterator[Shown]:
    """What is to be shown while adapters are fetched; gone afterwards."""
    if settings.quiet:
        yield Nothing()
        return
    if settings.no_progress or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    bars = RichProgress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        # What is written to standard output belongs there, whatever is on the terminal.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bars:
        yield OnTerminal(bars)


class Nothing(Silent):
    """Shows nothing."""

    def paused(self) -> AbstractContextManager[None]:
        """Nothing to pause."""
        return nullcontext()


class Lines(Nothing):
    """Says only what a log should have: that another process is waited for."""

    def waiting(self, adapter: str) -> None:
        """One line."""
        typer.echo(f"{safe(adapter)}: another process fetches it; waiting for it", err=True)


class OnTerminal:
    """One bar a file, while it is under way."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def began(self, file: str, size: int | None, have: int) -> None:
        """A new bar, as far along as the file is."""
        self._tasks[file] = self._bars.add_task(safe(file), total=size, completed=have)

    def advanced(self, file: str, count: int) -> None:
        """Moves it."""
        if file in self._tasks:
            self._bars.advance(self._tasks[file], count)

    def ended(self, file: str) -> None:
        """Takes it away."""
        task = self._tasks.pop(file, None)
        if task is not None:
            self._bars.remove_task(task)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the bars away, and puts them back."""
        self._bars.stop()
        yield
        self._bars.start()

    def waiting(self, adapter: str) -> None:
        """One line above the bars."""
        self._bars.console.print(f"{safe(adapter)}: another process fetches it; waiting for it", markup=False)
