"""A server's adapters by name: their state, recent errors, and counters."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic

from lora_cli.errors import NotFound, UsageError
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.plan import SlotRequirements
from lora_cli.text import nearest

STATUS: Mapping[int, tuple[int, str]] = {
    1: (422, "UnprocessableEntityError"),
    2: (400, "BadRequestError"),
    3: (404, "NotFoundError"),
    4: (503, "ServiceUnavailableError"),
    5: (502, "BadGatewayError"),
    6: (503, "ServiceUnavailableError"),
}
"""HTTP status and vLLM's name of it by the exit code that the error would end a command with."""

FIRST_S, LONGEST_S = 1.0, 300.0
"""An adapter that failed is tried again after 1 s, then 2, 4, … 300 s."""


@dataclass(slots=True, kw_only=True)
class Backoff:
    """The last failure of ``failures`` in a row, and the time (``time.monotonic``) of the next attempt."""

    failure: LoadReport | None = None
    failures: int = 0
    retry_at: float = 0.0

    def record_result(self, report: LoadReport) -> None:
        """Record the result of an attempt."""
        if not report.error:
            self.failure, self.failures, self.retry_at = None, 0, 0.0
            return
        wait_s = min(FIRST_S * 2.0 ** min(self.failures, 30), LONGEST_S)
        self.failure, self.failures, self.retry_at = report, self.failures + 1, monotonic() + wait_s

    @property
    def retry_in_s(self) -> float:
        """Seconds until the next attempt is allowed; 0 if it is now."""
        return max(0.0, self.retry_at - monotonic())


@dataclass(slots=True)
class AdapterState(Backoff):
    """One adapter of the server: its request, and its state.

    ``by_client`` says that a client registered it: each fetch then checks that its source is allowed. ``lora`` is the
    validated adapter on this disk, and ``needs`` its slot requirements. ``report`` is that of the last load,
    ``proved_by`` the number of the child process that proved it (``WarmProcess.starts``; 0: none), ``ever_loaded``
    whether any load succeeded. ``remote`` says that it was downloaded, not cached. ``last_used`` is in seconds since
    1970. ``loading`` is the last load for a request.
    """

    item: Request
    by_client: bool = False
    lora: LoraRequest | None = None
    needs: SlotRequirements | None = None
    report: LoadReport | None = None
    proved_by: int = 0
    ever_loaded: bool = False
    remote: bool = False
    requests: int = 0
    last_used: float | None = None
    loading: "asyncio.Task[LoadReport] | None" = None


LONGEST_NAME = 100
"""Characters of a client's unknown name that a response repeats."""

MOST = 100_000

MOST_SUGGESTED, LONGEST_SUGGESTED = 200, 64
"""With more names, or for longer ones, no similar name is suggested: comparing them takes too long."""


def shorten_name(name: str) -> str:
    """A client's unknown name, truncated for a response."""
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…"


class AdapterRegistry:
    """The adapters by name, in the order of their registration."""

    def __init__(self, items: Iterable[Request]) -> None:
        self._adapters = {item.name: AdapterState(item) for item in items}

    def __len__(self) -> int:
        """The number of adapters."""
        return len(self._adapters)

    def __iter__(self) -> Iterator[AdapterState]:
        """A snapshot of all adapters."""
        return iter(list(self._adapters.values()))

    def of(self, name: str) -> AdapterState:
        """The adapter ``name``. Raises ``NotFound``."""
        adapter = self._adapters.get(name)
        if adapter is None:
            close = nearest(name, self._suggested())
            raise NotFound(f"there is no adapter {shorten_name(name)}", hint=f"did you mean {close}?" if close else "")
        return adapter

    def add(self, item: Request) -> AdapterState:
        """Register an adapter for a client. One of the same name and source is kept.

        Raises:
            UsageError: there is another one of that name; or there are too many.
        """
        known = self._adapters.get(item.name)
        if known is None and len(self._adapters) >= MOST:
            raise UsageError(f"there are already {MOST} adapters, the maximum", hint="unload some")
        if known is not None and str(known.item.source) != str(item.source):
            raise UsageError(
                f"an adapter {item.name} from another source already exists", hint='"load_inplace": true replaces it'
            )
        return self._adapters.setdefault(item.name, AdapterState(item, by_client=True))

    def put(self, adapter: AdapterState) -> AdapterState | None:
        """Register ``adapter`` under its name; returns the one that it replaces."""
        before = self._adapters.get(adapter.item.name)
        self._adapters[adapter.item.name] = adapter
        return before

    def remove(self, name: str) -> AdapterState:
        """Remove an adapter and return it. Raises ``NotFound``."""
        return self._adapters.pop(self.of(name).item.name)

    def drop(self, adapter: AdapterState) -> None:
        """Remove ``adapter``, unless its name was taken over."""
        if self._adapters.get(adapter.item.name) is adapter:
            del self._adapters[adapter.item.name]

    def _suggested(self) -> list[str]:
        few = self._adapters if len(self._adapters) <= MOST_SUGGESTED else ()
        return [name for name in few if len(name) <= LONGEST_SUGGESTED]


@dataclass(slots=True)
class Counters:
    """Sums since the server began: requests by tier, loads with their bytes and seconds by stage, failures by stage."""

    requests: Counter[str] = field(default_factory=Counter)
    loads: int = 0
    load_bytes: int = 0
    stage_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    failures: Counter[str] = field(default_factory=Counter)

    def load(self, report: LoadReport) -> None:
        """Count one load: the seconds of each stage, or the stage that failed."""
        for stage, ms in report.stage_ms.items():
            self.stage_s[stage] += ms / 1e3
        if report.error:
            self.failures[report.stage or "load"] += 1
        else:
            self.loads += 1
            self.load_bytes += report.bytes
