"""How long a busy object store asks to be left alone: obstore keeps that to itself, so its bucket is asked."""

import threading
import time
from collections.abc import Mapping
from contextlib import closing

from lora_cli.errors import LoraCliError
from lora_cli.sources.retries import Transient, from_status

BUSY = (408, 429, 503)
"""The answers that may say when to come back."""

FRESH_S = 1.0
"""So long all ranges in flight share one answer: whoever is busy is not asked by each of them."""

Headers = Mapping[str, str]


class Busy(Transient):
    """A server that answered with one of ``BUSY`` to a request of obstore's."""

    def __init__(self, failure: Transient, status: int) -> None:
        super().__init__(failure.reason, hint=failure.hint)
        self.status = status


class Wishes:
    """What the server of one bucket asks for; who is busy says so to anybody. Threads share it."""

    def __init__(self, server: str, url: str, timeout_s: float) -> None:
        self._server, self._url, self._timeout_s = server, url, timeout_s
        self._headers: Headers = {}
        self._until = 0.0
        self._lock = threading.Lock()

    def of(self, failure: Transient) -> Transient:
        """``failure`` with the time to wait in it, when there is one."""
        if not isinstance(failure, Busy):
            return failure
        with self._lock:
            if time.monotonic() >= self._until:
                self._headers = self._ask()
                self._until = time.monotonic() + FRESH_S
            return from_status(self._server, failure.status, self._headers)

    def _ask(self) -> Headers:
        from lora_cli.sources.http_transport import send

        try:
            with closing(send(self._url, {}, self._timeout_s, method="HEAD")) as response:
                return response.headers if response.status in BUSY else {}
        except (Transient, LoraCliError):
            return {}
