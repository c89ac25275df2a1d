"""Folders that go: all at once for whoever looks at them, and also from a disk that is full."""

from contextlib import suppress
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.exchange import clear
from lora_cli.store.writers import new_writer


def aside(store: Store) -> Path:
    """A new name for what is to go, in a folder that is there: a full disk has no room for another one.

    Raises:
        OSError: as it comes.
    """
    store.snapshots.mkdir(parents=True, exist_ok=True)
    return store.snapshots / str(new_writer())


def take_away(store: Store, folder: Path) -> None:
    """Removes ``folder``; nothing happens when it is gone already.

    Raises:
        OSError: as it comes.
    """
    there = aside(store)
    with suppress(FileNotFoundError):
        folder.rename(there)
    clear(there)
