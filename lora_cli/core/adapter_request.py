"""One adapter that is asked for, and what it may be called."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
NAME_IN_WORDS = "a name: at most 128 letters, digits, dots, - and _, starting with a letter or digit"
NAME_HINT = "name: sql-v2; it is used as the folder, and as the model name in requests"
"""The pattern of an adapter's name: safe as the name of a folder."""


@dataclass(frozen=True, slots=True)
class Item:
    """One adapter that was asked for: as manifest and lock name it, or as the command line does.

    With ``latest`` it is the latest checkpoint in ``source``. ``signature`` is a file with its signature, if the
    manifest names one.
    """

    name: str
    source: str | AdapterRef
    sha256: str | None = None
    pinned: bool = False
    locked: "LockedAdapter | None" = None
    latest: bool = False
    signature: Path | None = None
