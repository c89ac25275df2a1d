"""The request that a thread of the warm process is on: whose it is, what stage it is in, and what each stage took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lora_cli.runtime.messages import Job


def quiet(_stage: str) -> None:
    """Tell nobody."""


class Clock:
    """One request at hand: whose it is, milliseconds by stage, and the stage that runs now."""

    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        self.job, self._tell = job, tell
        self.stage = ""
        self.ms: dict[str, float] = {}

    def began(self, stage: str) -> None:
        """Tell the parent."""
        self.stage = stage
        self._tell(stage)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Time the block as ``stage``."""
        self.began(stage)
        began = time.perf_counter()
        yield
        self.ms[stage] = (time.perf_counter() - began) * 1e3


AT_HAND: ContextVar[Clock] = ContextVar("at_hand")
"""The request of this thread: what a tier loads while it is served is loaded for it."""
