"""What a server does beside its requests, every few seconds."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from lora_cli.core.log import logger
from lora_cli.errors import LoraCliError

LONGEST_S = 60.0

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to be done every ``every_s`` seconds; one that fails is done again later, and later still."""

    name: str
    every_s: float
    do: Callable[[], None]


class Chores:
    """One thread that does them, from ``start`` to ``stop``."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = chores
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="chores", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Do no more."""
        self._stopped.set()

    def _work(self) -> None:
        due = {chore.name: monotonic() + chore.every_s for chore in self._chores}
        failed = dict.fromkeys(due, 0)
        while not self._stopped.wait(max(0.0, min(due.values()) - monotonic())):
            for chore in self._chores:
                if due[chore.name] > monotonic():
                    continue
                try:
                    chore.do()
                    failed[chore.name] = 0
                except LoraCliError as error:
                    failed[chore.name] += 1
                    log.warning("%s: %s", chore.name, error.message)
                wait_s = min(chore.every_s * 2.0 ** min(failed[chore.name], 10), LONGEST_S)
                due[chore.name] = monotonic() + max(wait_s, chore.every_s)
