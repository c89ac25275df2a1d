"""What the adapters of one run share beside the lanes: room, a hold on the cache, and bytes for all of them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.errors import MachineError, Refused
from lora_cli.fetching.room import Room
from lora_cli.store import Store
from lora_cli.store.holds import Hold

if TYPE_CHECKING:
    from lora_cli.fetching import Fetched

LOST_TRIES = 3
"""So often what others clean away meanwhile is fetched again."""


class Total:
    """``--max-total-bytes``: what the adapters of one run may have together, whether they are cached or not.

    It is spent in the order of the adapters, so that the same ones are refused at every run: each waits until all
    before it are resolved or have failed.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._spent: dict[int, int] = {}
        self._changed = threading.Condition()

    def spend(self, turn: int, name: str, count: int) -> None:
        """So many bytes are the adapter's, which is number ``turn`` from 0. Asked again, the last word counts.

        Raises:
            Refused: they are more than is left.
        """
        if self._most is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: all(number in self._spent for number in range(turn)))
            before = sum(spent for number, spent in self._spent.items() if number != turn)
            fits = before + count <= self._most
            self._spent[turn] = count if fits else 0
            self._changed.notify_all()
        if not fits:
            raise Refused(
                f"{name} has {count} bytes: with {before} of the others these are over the {self._most} of one run",
                hint="raise --max-total-bytes, or fetch fewer adapters at once",
            )

    def end(self, turn: int) -> None:
        """The adapter is done or has failed: those after it need not wait for it."""
        with self._changed:
            self._spent.setdefault(turn, 0)
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Run:
    """``hold`` keeps what was fetched from being cleaned away (None: nothing does)."""

    room: Room
    total: Total
    hold: Hold | None = None


def held(bring: "Callable[[], Fetched]", store: Store, hold: Hold | None, name: str) -> "Fetched":
    """What ``bring`` gives, held from then on.

    Raises:
        MachineError: others take it away each time.
    """
    for _ in range(LOST_TRIES):
        fetched = bring()
        if hold is None or hold.keeps(fetched.snapshot.digest):
            return fetched
    raise cleaned(store, name)


def cleaned(store: Store, name: str) -> MachineError:
    """What is said when others take away, again and again, what was just fetched."""
    return MachineError(
        f"{store.root} is being cleaned while {name} is fetched", hint="stop whatever removes files there"
    )
