"""The adapters of a server by name."""

import threading
from collections.abc import Iterable

from lora_cli.core.item import Item
from lora_cli.core.nearest import nearest
from lora_cli.errors import NotFound, UsageError
from lora_cli.serving.answers import shortened
from lora_cli.serving.entry import Entry

MOST = 100_000

MOST_SUGGESTED, LONGEST_SUGGESTED = 200, 64
"""Among more names, or longer ones, none is suggested for an unknown one: comparing takes time for each of them."""


class Entries:
    """Holds an entry for each name, in the order in which they became known; threads share it."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._entries = {item.name: Entry(item) for item in items}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries)

    def all(self) -> list[Entry]:
        """All of them, as they are now."""
        with self._lock:
            return list(self._entries.values())

    def of(self, name: str) -> Entry:
        """What is known of one. Raises ``NotFound``."""
        entry = self._entries.get(name)
        if entry is None:
            close = nearest(name, self._suggested())
            raise NotFound(f"there is no adapter {shortened(name)}", hint=f"did you mean {close}?" if close else "")
        return entry

    def add(self, item: Item) -> None:
        """One that a client named. One of that name and source stays as it is.

        Raises:
            UsageError: there is another one of that name; or there are too many.
        """
        with self._lock:
            known = self._entries.get(item.name)
            if known is None and len(self._entries) >= MOST:
                raise UsageError(f"there are {MOST} adapters already", hint="unload some")
            if known is None:
                self._entries[item.name] = Entry(item, by_client=True)
            elif str(known.item.source) != str(item.source):
                raise UsageError(
                    f"the adapter {item.name} is loaded already, from elsewhere",
                    hint='"load_inplace": true replaces it',
                )

    def put(self, entry: Entry) -> Entry | None:
        """Have ``entry`` under its name; gives the one that had it before."""
        with self._lock:
            before = self._entries.get(entry.item.name)
            self._entries[entry.item.name] = entry
            return before

    def has(self, entry: Entry) -> bool:
        """Whether ``entry`` is the one of its name."""
        return self._entries.get(entry.item.name) is entry

    def remove(self, name: str) -> Entry:
        """Forget one, and give it. Raises ``NotFound``."""
        with self._lock:
            entry = self._entries.pop(name, None)
        return entry if entry is not None else self.of(name)

    def _suggested(self) -> list[str]:
        if len(self._entries) > MOST_SUGGESTED:
            return []
        return [entry.item.name for entry in self.all() if len(entry.item.name) <= LONGEST_SUGGESTED]
