"""Progress on standard error: drawn by rich on a terminal alone, and removed at the end."""

import sys
import time
from contextlib import AbstractContextManager, suppress
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


class Run(Progress, AbstractContextManager["Run"]):
    """The progress of a run; this one shows nothing, and logs waits."""

    def __exit__(self, *_: object) -> None:
        pass

    def set_stage(self, name: str, stage: str) -> None:
        """An adapter's stage begins."""

    def adapter_ended(self, adapter: str, *, failed: bool = False) -> None:
        """An adapter is done, or has ``failed``."""


def shown(settings: Settings, count: int, done: str) -> Run:
    """Shows how many of ``count`` adapters are ``done``: on a terminal, where no option or setting forbids it."""
    is_shown = sys.stderr.isatty() and not (settings.quiet or settings.verbose)
    return Bars(count, done) if is_shown else Run()


class Bars(Run):
    """How many of ``count`` adapters are ``done``, and a bar for each that is downloaded.

    Lines written to standard error appear above them. It is drawn by the thread that reports, and by no other.
    """

    def __init__(self, count: int, done: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Drawn

        console = Console(stderr=True, soft_wrap=True, highlight=False)
        bar = [BarColumn(BAR)] if console.width >= WIDE else []
        how, what = (TextColumn(f"{{task.{one}}}", markup=False) for one in ("fields[how]", "description"))
        self._drawn = Drawn(how, *bar, what, console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._count, self._done, self._passed, self._failed = count, done, 0, 0
        self._all = self._drawn.add_task("", total=max(count, 1), how=f"0 of {count} {done}")
        self._rows: dict[str, tuple[TaskID, list[int]]] = {}  # with the bytes that are here, and all
        self._next_s = 0.0

    def __enter__(self) -> Self:
        self._drawn.live.start()
        self._drawn.console.show_cursor(True)  # a killed process must not leave it hidden
        return self

    def __exit__(self, *_: object) -> None:
        with TERMINAL:
            self._drawn.stop()

    def _draw(self) -> None:
        with TERMINAL:
            self._next_s = time.monotonic() + 0.125  # when bytes that came are drawn again
            self._drawn.refresh()

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
        if time.monotonic() > self._next_s:
            self._draw()

    def waiting(self, adapter: str) -> None:
        """Another process fetches the same adapter."""
        self.set_stage(adapter, "waiting for another process that fetches it")

    def set_stage(self, name: str, stage: str) -> None:
        """An adapter's stage begins."""
        self._drawn.update(self._all, description=f"{cut(safe(name), NAME)}  {safe(stage)}")
        self._draw()

    def adapter_ended(self, adapter: str, *, failed: bool = False) -> None:
        """An adapter is done, or has ``failed``."""
        self._passed += not failed
        self._failed += failed
        if adapter in self._rows:  # else it was cached
            self._drawn.remove_task(self._rows.pop(adapter)[0])
        how = f"{self._passed} of {self._count} {self._done}" + (f", {self._failed} failed" if self._failed else "")
        self._drawn.update(self._all, completed=self._passed, how=how)
        self._draw()
