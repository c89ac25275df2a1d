"""What the server asks of the processes that fetch and validate, and what they answer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.base_model import BaseModel
from lora_cli.core.item import Item
from lora_cli.core.results import LoadReport
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.validation.admission import Admission

Copy = Callable[[Store, Admission], Admission]
"""Copies an accepted adapter elsewhere; an error of it is the admission's."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What such a process is told once, before anything else.

    ``roots`` are the folders that clients may name adapters in. ``copy`` is None where nothing is copied. ``log_level``
    is from where on it passes on what is logged. ``threads`` requests are worked on at once.
    """

    settings: Settings
    base: BaseModel
    max_lora_rank: int | None = None
    roots: tuple[Path, ...] = ()
    copy: Copy | None = None
    log_level: int = 30
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring an adapter into the cache; answered with ``Fetched``. With ``by_client`` it must lie in the roots."""

    item: Item
    by_client: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter in the cache, or why it is not there.

    ``admission`` is what the next process needs to know of it, pickled: the server's own process does not open it.
    """

    report: LoadReport
    size: int = 0
    cached: bool = False
    admission: bytes = b""


@dataclass(frozen=True, slots=True)
class Judge:
    """Validate what was fetched; answered with ``Judged``."""

    item: Item
    admission: bytes


@dataclass(frozen=True, slots=True)
class Judged:
    """An adapter that was validated; without ``directory`` it was refused.

    ``adapter`` is what its header says, pickled. ``rank`` is the largest of its modules', ``modules`` are those of the
    base that it is on.
    """

    report: LoadReport
    directory: Path | None = None
    adapter: bytes = b""
    rank: int = 0
    modules: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CopyOut:
    """Copy what was accepted, which is ``Fetched.admission``; answered with ``Copied``."""

    admission: bytes


@dataclass(frozen=True, slots=True)
class Copied:
    """Where the copy lies, or why there is none."""

    report: LoadReport
