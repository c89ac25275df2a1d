"""Progress on standard error: a few lines that change on a terminal, single ones elsewhere."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from lora_cli.cli.output import to_stderr
from lora_cli.core.text import safe
from lora_cli.fetching.progress import Progress, Silent
from lora_cli.settings import Settings


class Shown(Progress, Protocol):
    """Progress that makes room for other text."""

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is shown inside."""
        ...

    def through(self, adapter: str) -> None:
        """Nothing more comes of that adapter."""
        ...


@contextmanager
def shown_progress(settings: Settings, count: int) -> Iterator[Shown]:
    """What is to be shown while ``count`` adapters are fetched; gone afterwards."""
    if settings.quiet:
        yield Nothing()
        return
    if not is_drawn(settings):
        yield Lines()
        return
    from lora_cli.cli.terminal import OnTerminal

    with OnTerminal(count) as shown:
        yield shown


def is_drawn(settings: Settings) -> bool:
    """Whether there is a terminal to draw on, and drawing is wanted."""
    if settings.quiet or settings.no_progress or settings.verbose:
        return False
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Nothing(Silent):
    """Shows nothing."""

    def paused(self) -> AbstractContextManager[None]:
        """Nothing to pause."""
        return nullcontext()

    def through(self, adapter: str) -> None:
        """Nothing."""


class Lines(Nothing):
    """Says only what a log should have: that another process is waited for."""

    def waiting(self, adapter: str) -> None:
        """One line."""
        to_stderr(f"{safe(adapter)}: another process fetches it; waiting for it")
