"""Progress on standard error: drawn by rich on a terminal alone, and removed at the end."""

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from lora_cli.cli.output import TERMINAL
from lora_cli.fetching.batch import Progress
from lora_cli.settings import Settings
from lora_cli.text import cut, safe, size

if TYPE_CHECKING:
    from rich.progress import TaskID

BAR, NAME = 20, 30
WIDE = 80
"""Columns of a terminal with room for bars."""


class Run(Progress):
    """The progress of a run; this one shows nothing, and logs waits."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin_part(self, done: str, count: int) -> None:
        """Starts the next part of the run, which has ``count`` adapters."""

    def set_stage(self, name: str, stage: str) -> None:
        """An adapter's stage begins."""

    def adapter_ended(self, adapter: str, *, failed: bool = False) -> None:
        """An adapter is done with this part of the run; one that ``failed`` is not in the next part."""


def shown(settings: Settings, count: int, done: str, *, threaded: bool = True) -> Run:
    """Shows how many of ``count`` adapters are ``done``, on a terminal.

    Unless it is ``threaded`` only the calling thread draws, since it may fork, and nothing for one adapter.
    """
    return Bars(count, done, threaded) if is_interactive(settings) and (threaded or count > 1) else Run()


class Bars(Run):
    """How many of ``count`` adapters are ``done``, and a bar for each that is downloaded.

    Lines written to standard error appear above them.
    """

    def __init__(self, count: int, done: str, threaded: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Drawn

        console = Console(stderr=True, soft_wrap=threaded, highlight=False)
        bar = [BarColumn(BAR)] if console.width >= WIDE else []
        self._drawn = Drawn(
            TextColumn("{task.fields[how]}", markup=False),
            *bar,
            TextColumn("{task.description}", markup=False),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=threaded,
        )
        self._threaded, self._all, self._failed = threaded, self._drawn.add_task("", how=""), 0
        self._over = threading.Event()
        self._rows: dict[str, tuple[TaskID, list[int]]] = {}  # with the bytes that are here, and all
        self.begin_part(done, count)

    def __enter__(self) -> Self:
        self._drawn.live.start()
        self._drawn.console.show_cursor(True)  # a killed process must not leave it hidden
        if self._threaded:
            threading.Thread(target=self._refresh, name="progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with suppress(OSError), TERMINAL:  # the terminal is closed
            self._drawn.stop()

    def _refresh(self) -> None:
        while not self._over.wait(0.125):
            with suppress(OSError), TERMINAL:
                self._drawn.refresh()

    def begin_part(self, done: str, count: int) -> None:
        """Starts the next part of the run, which has ``count`` adapters."""
        self._done, self._passed, self._count = done, 0, count
        with TERMINAL:
            self._drawn.reset(self._all, total=max(count, 1), description="")
        self._show_counts()

    def _show_counts(self) -> None:
        failed = f", {self._failed} failed" if self._failed else ""
        how = f"{self._passed} of {self._count} {self._done}{failed}"
        self._drawn.update(self._all, completed=self._passed, how=how, refresh=not self._threaded)

    def began(self, adapter: str, size: int) -> None:
        """A download begins."""
        with TERMINAL:
            self._rows[adapter] = self._drawn.add_task(cut(safe(adapter), NAME), total=size, how=""), [0, size]

    def advanced(self, adapter: str, count: int) -> None:
        """``count`` more bytes are here."""
        with suppress(KeyError):  # of two with the same name one may have ended
            task, amounts = self._rows[adapter]
            amounts[0] += count
            self._drawn.update(task, completed=amounts[0], how=" of ".join(map(size, amounts)))

    def waiting(self, adapter: str) -> None:
        """Another process fetches the same adapter."""
        self.set_stage(adapter, "waiting for another process that fetches it")

    def set_stage(self, name: str, stage: str) -> None:
        """An adapter's stage begins."""
        self._drawn.update(self._all, description=f"{cut(safe(name), NAME)}  {safe(stage)}")

    def adapter_ended(self, adapter: str, *, failed: bool = False) -> None:
        """An adapter is done with this part of the run; one that ``failed`` is not in the next part."""
        self._passed += not failed
        self._failed += failed
        if adapter in self._rows:  # else it was cached
            self._drawn.remove_task(self._rows.pop(adapter)[0])
        self._show_counts()


def is_interactive(settings: Settings) -> bool:
    """Whether progress is drawn: standard error is a terminal, and no option forbids it."""
    if settings.quiet or settings.no_progress or settings.verbose or not sys.stderr.isatty():
        return False
    return os.environ.get("TERM") != "dumb" and os.environ.get("TTY_INTERACTIVE") != "0"
