"""Progress of ``warm --once``: on a terminal two lines that change, which say who is in which stage; elsewhere nothing.

With ``--verbose`` each stage is a line, wherever that goes (``warming.teller``).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_cli.cli.progress import is_drawn
from lora_cli.cli.tally import Tally
from lora_cli.core.snapshot import Snapshot
from lora_cli.render.human.stages import Stages, render_stages
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.cli.terminal import Drawing


class Staged(Tally):
    """What is known of a warm run: the adapter at hand and its stage, how many are through, and the bytes that come."""

    def __init__(self, count: int) -> None:
        super().__init__(1)
        self._began_s = time.monotonic()
        self._stages = Stages("", "", "accepted", 0, count, 0, 0.0)
        self._change = threading.Lock()
        self.drawing: Drawing | None = None

    def hear(self, name: str, stage: str, _snapshot: Snapshot | None = None) -> None:
        """An adapter's stage begins."""
        with self._change:
            self._stages = replace(self._stages, name=name, stage=stage)

    def waiting(self, adapter: str) -> None:
        """Another process fetches the same adapter."""
        self.hear(adapter, "waits for another process that fetches it")

    def passed(self, *, failed: bool) -> None:
        """An adapter is through what is done to all now; one that ``failed`` is not, and is counted with the failed."""
        with self._change:
            now = self._stages
            self._stages = replace(now, ended=now.ended + (not failed), failed=now.failed + failed)

    def go_on(self, through: str, count: int) -> None:
        """Something else is done now, to ``count`` adapters, which are then ``through``."""
        with self._change:
            self._stages = replace(self._stages, name="", through=through, ended=0, count=count)

    def stages(self, now_s: float) -> Stages:
        """All of it at this moment of a monotonic clock."""
        rows = self.meter(now_s).rows
        return replace(self._stages, seconds=now_s - self._began_s, row=rows[0] if rows else None)

    def lines(self, columns: int, rows: int, *, plain: bool) -> list[str]:
        """As a terminal of that size shows it."""
        return render_stages(self.stages(time.monotonic()), columns, plain=plain)[-max(rows, 1) :]

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is shown inside."""
        return nullcontext() if self.drawing is None else self.drawing.paused()


@contextmanager
def shown_stages(settings: Settings, count: int) -> Iterator[Staged]:
    """What is to be told while ``count`` adapters are warmed: it is drawn on a terminal, and gone afterwards."""
    staged = Staged(count)
    if not is_drawn(settings):
        yield staged
        return
    from lora_cli.cli.terminal import Drawing

    with Drawing(staged.lines) as staged.drawing:
        yield staged
