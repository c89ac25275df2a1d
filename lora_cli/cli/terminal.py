"""What is under way, drawn on a terminal."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol, Self

from lora_cli.cli.output import to_stderr
from lora_cli.cli.tally import Tally
from lora_cli.core.text import safe
from lora_cli.render.human.meter import render_meter

REFRESH_S = 0.125
MOST_ROWS = 12


class Lines(Protocol):
    """What is to be drawn now."""

    def __call__(self, columns: int, rows: int, *, plain: bool) -> list[str]:
        """At most ``rows`` lines of at most ``columns``."""
        ...


class Drawing:
    """Lines on standard error that are drawn again and again, over what was drawn before; gone at the end.

    ``lines(columns, rows, plain=…)`` are drawn, in at most so many; ``plain`` ones with ASCII alone.
    The cursor stays visible and the terminal as it is, so that a kill leaves nothing to be set right.
    """

    def __init__(self, lines: Lines) -> None:
        self._told = lines
        self._lines = 0
        self._pen = threading.Lock()
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._draw_on, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._gone.set()
        with self.paused():
            pass

    def _draw_on(self) -> None:
        while not self._gone.wait(REFRESH_S):
            with self._pen, suppress(OSError, ValueError):
                if not self._gone.is_set():
                    self._draw()

    def _draw(self) -> None:
        columns, rows = shutil.get_terminal_size()
        plain = (sys.stderr.encoding or "").lower() not in {"utf-8", "utf8"}
        # The last column stays free: some terminals begin a new line there.
        lines = self._told(columns - 1, min(MOST_ROWS, rows - 1), plain=plain)
        sys.stderr.write(self._erasing() + "\n".join(lines))
        sys.stderr.flush()
        self._lines = len(lines)

    def _erasing(self) -> str:
        """What moves the cursor to where the drawing began, and removes it."""
        return "\r" + "\x1b[A" * (self._lines - 1) + "\x1b[J" if self._lines else ""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the drawing away, and puts it back."""
        with self._pen:
            with suppress(OSError, ValueError):
                sys.stderr.write(self._erasing())
                sys.stderr.flush()
            self._lines = 0
            yield
            if not self._gone.is_set():
                with suppress(OSError, ValueError):
                    self._draw()


class OnTerminal(Tally):
    """A fetch's tally that is drawn."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._drawing = Drawing(self._lines)

    def __enter__(self) -> Self:
        self._drawing.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._drawing.__exit__(*exc)

    def paused(self) -> AbstractContextManager[None]:
        """Takes the drawing away, and puts it back."""
        return self._drawing.paused()

    def waiting(self, adapter: str) -> None:
        """One line above the drawing."""
        with self.paused():
            to_stderr(f"{safe(adapter)}: another process fetches it; waiting for it")

    def _lines(self, columns: int, rows: int, *, plain: bool) -> list[str]:
        return render_meter(self.meter(time.monotonic()), columns, rows, plain=plain)
