"""Retries: which failures are retried, how long to wait, and when to give up."""

import logging
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import TypeVar

from lora_cli.core.log import logger
from lora_cli.errors import Unreachable

CONNECT_TIMEOUT_S = 10.0
LONGEST_WAIT_S = 330.0
LONGEST_BACKOFF_S = 8.0

T = TypeVar("T")
log = logger(__name__)


@dataclass(eq=False)
class Transient(Exception):
    """A failure that may be gone at the next try. ``wait_s`` is how long the server asks to wait (None: unknown).

    A ``final`` one is not tried again. A ``slow`` one brought bytes, and so few that this is no progress.
    """

    reason: str
    _: KW_ONLY
    hint: str = "try again later"
    wait_s: float | None = None
    final: bool = False
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Retries:
    """The retries of an operation: up to ``count`` without progress. ``pause`` waits between the tries."""

    count: int
    pause: Callable[[float], None] = time.sleep

    def call(self, what: str, attempt: Callable[[], T]) -> T:
        """The result of ``attempt``, called again after a ``Transient``. Raises ``Unreachable``: ``what`` begins it."""
        failures = 0
        while True:
            try:
                return attempt()
            except Transient as failure:
                failures += 1
                self._wait(what, failure, failures)

    def stream(self, what: str, start: int, end: int | None, read: Callable[[int], Iterator[bytes]]) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` (None: all), resumed by ``read`` where they broke off; raises as ``call``."""
        failures, slow = 0, 0
        while end is None or start < end:
            try:
                for chunk in read(start):
                    start, failures = start + len(chunk), 0
                    yield chunk
                if end is None or start >= end:
                    return
                failure = Transient(f"it ended early, at byte {start} of {end}")
            except Transient as broken:
                failure = broken
            failures, slow = max(failures, slow) + 1, slow + 1 if failure.slow else 0
            self._wait(what, failure, failures)

    def _wait(self, what: str, failure: Transient, failures: int) -> None:
        wait_s = backoff_s(failures, failure.wait_s)
        if failures > self.count or failure.final or wait_s > LONGEST_WAIT_S:
            tries = f" (tried {failures} times)" if failures > 1 else ""
            raise Unreachable(f"{what}: {failure.reason}{tries}", hint=failure.hint) from failure
        level = logging.WARNING if wait_s > 5 else logging.INFO
        log.log(level, "%s: %s; next try in %.1f s", what, failure.reason, wait_s)
        self.pause(wait_s)


def from_status(server: str, status: int, headers: Mapping[str, str]) -> Transient:
    """Translates a response of 408, 429 or 5xx from ``server``."""
    wait_s = requested_wait_s(headers) if status in (408, 429, 503) else None
    if status != 429:
        return Transient(f"{server} answered {status}", wait_s=wait_s)
    asks = f" and requests a wait of {wait_s:.0f} s" if wait_s else ""
    hint = "wait, or lower jobs (LORA_CLI_JOBS); requests with a token (HF_TOKEN for the Hub) have higher limits"
    return Transient(f"{server} limits the rate of requests (429){asks}", hint=hint, wait_s=wait_s)


def requested_wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: the longer of ``RateLimit: …;t=`` and ``Retry-After``; None if neither.

    ``RateLimit`` is draft-ietf-httpapi-ratelimit-headers-09; ``Retry-After`` holds seconds or an HTTP date (RFC 9110).
    """
    from email.utils import parsedate_to_datetime

    after = headers.get("Retry-After", "").strip()[:100]
    asked = re.findall(r";\s*t\s*=\s*(\d{1,9})\b", headers.get("RateLimit", "")[:1000], re.ASCII)[:1]
    waits = [float(text) for text in [*asked, after] if re.fullmatch(r"\d{1,9}", text, re.ASCII)]
    with suppress(ValueError, OverflowError):
        waits.append(max(0.0, parsedate_to_datetime(after).timestamp() - time.time()))
    return max(waits, default=None)


def backoff_s(failures: int, asked_s: float | None) -> float:
    """Seconds to wait after so many failures in a row: 0.5, doubled up to 8, halved by chance; or what a server asks.

    Up to a tenth is added to that, so that forty waiting processes do not come back in the same instant.
    """
    chance = random.random()  # noqa: S311 - spreads load, keeps no secret
    if asked_s:
        return asked_s + chance * (0.2 + 0.1 * asked_s)
    return float(min(LONGEST_BACKOFF_S, 0.5 * 2 ** min(failures - 1, 10)) * (0.5 + 0.5 * chance))


def is_unknown_host(error: BaseException | None) -> bool:
    """Whether DNS does not know the host's name, which another try would not change; a DNS that is down may recover."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)


def printable(text: str) -> str:
    """At most 200 characters of what a server wrote, without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text[:200]).strip()
