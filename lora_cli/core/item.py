"""One adapter that is asked for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter


@dataclass(frozen=True, slots=True)
class Item:
    """One adapter that was asked for: as manifest and lock name it, or as the command line does.

    With ``latest`` it is the latest checkpoint in ``source``.
    """

    name: str
    source: str | AdapterRef
    sha256: str | None = None
    pinned: bool = False
    locked: "LockedAdapter | None" = None
    latest: bool = False
