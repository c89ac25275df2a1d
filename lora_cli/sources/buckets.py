"""What a source needs of an open bucket, whoever speaks to its server."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from lora_cli.sources.object_refusals import Asker
from lora_cli.sources.retries import Transient

PAGE = 1000
"""The most objects of one answer to a question for a listing."""


class Entry(NamedTuple):
    """One object as it is listed; ``version`` is its ETag (``etag:…``), else its time of change (``time:…``)."""

    key: str
    size: int
    version: str


class Page(NamedTuple):
    """At most ``PAGE`` objects of a listing, in its order; ``last`` when no more follow."""

    entries: list[Entry]
    last: bool


class Bucket(ABC):
    """One bucket, open. Threads share it."""

    asker: Asker

    @property
    def server(self) -> str:
        """What messages call its server."""
        return self.asker.server

    @abstractmethod
    def pages(self, prefix: str) -> Iterator[Page]:
        """All objects below ``prefix``, page by page, each asked for when it is wanted.

        Raises:
            Transient: network or server; each page must come within the timeout.
            Answered: an answer that another try would not change.
        """

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether there is such an object, as far as the server says."""

    def wished(self, failure: Transient) -> Transient:
        """``failure`` with the time that the server asks to wait, where that is not known yet."""
        return failure


def version_of(etag: str, changed: datetime | None) -> str:
    """What tells a version of an object from any other; some servers leave out the quotes of an ETag."""
    plain = etag.removeprefix("W/").strip('"')
    return f"etag:{plain}" if plain else f"time:{changed.isoformat(timespec='seconds') if changed else ''}"
