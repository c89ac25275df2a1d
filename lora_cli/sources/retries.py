"""Retries: which failures are retried, how long to wait, and when to give up."""

import logging
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import TypeVar

from lora_cli.errors import Corrupt, Unreachable
from lora_cli.redaction import logger

CONNECT_TIMEOUT_S, LONGEST_WAIT_S, LONGEST_BACKOFF_S = 10.0, 330.0, 8.0

T = TypeVar("T")
log = logger(__name__)


@dataclass(eq=False)
class Transient(Exception):
    """A failure that may be gone at the next try, after ``wait_s`` if the server says so; not a ``final`` one."""

    reason: str
    _: KW_ONLY
    hint: str = "try again later"
    wait_s: float | None = None
    final: bool = False


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
        failures = 0
        while end is None or start < end:
            before = start
            try:
                for chunk in read(start):
                    start += len(chunk)
                    if end is not None and start > end:
                        raise Corrupt(f"{what}: the server sent more bytes than requested")
                    yield chunk
                if end is None or start >= end:
                    return
                failure = Transient(f"it ended early, at byte {start} of {end}")
            except Transient as broken:
                failure = broken
            failures = failures + 1 if start == before else 0
            self._wait(what, failure, failures)

    def _wait(self, what: str, failure: Transient, failures: int) -> None:
        # Chance keeps forty waiting processes from coming back in the same instant.
        chance = random.random()  # noqa: S311 - spreads load, keeps no secret
        wait_s = min(LONGEST_BACKOFF_S, 0.25 * 2.0 ** min(failures, 10)) * (0.5 + 0.5 * chance)
        if failure.wait_s:
            wait_s = failure.wait_s + chance * (0.2 + 0.1 * failure.wait_s)
        if failures > self.count or failure.final or wait_s > LONGEST_WAIT_S:
            tries = f" (tried {failures} times)" if failures > 1 else ""
            raise Unreachable(f"{what}: {failure.reason}{tries}", hint=failure.hint) from failure
        level = logging.WARNING if wait_s > 5 else logging.INFO
        log.log(level, "%s: %s; next try in %.1f s", what, failure.reason, wait_s)
        self.pause(wait_s)


def from_status(server: str, status: int, headers: Mapping[str, str]) -> Transient:
    """Translates a response of 408, 429 or 5xx from ``server``, with the ``Retry-After`` that it asks for."""
    wait_s, asks = None, ""
    if asked := headers.get("Retry-After"):
        from urllib3.exceptions import InvalidHeader
        from urllib3.util import Retry

        with suppress(InvalidHeader, ValueError, OverflowError):
            wait_s = float(Retry().parse_retry_after(asked))
            asks = f" and requests a wait of {wait_s:.0f} s"
    if status != 429:
        return Transient(f"{server} answered {status}{asks}", wait_s=wait_s)
    hint = "wait, or lower jobs (LORA_CLI_JOBS); requests with a token (HF_TOKEN for the Hub) have higher limits"
    return Transient(f"{server} limits the rate of requests (429){asks}", hint=hint, wait_s=wait_s)


def is_unknown_host(error: BaseException | None) -> bool:
    """Whether DNS does not know the host's name, which another try would not change; a DNS that is down may recover."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
