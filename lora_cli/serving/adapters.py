"""What a server knows of its adapters by name: each one, what failed of late, and what is counted."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from lora_cli.core.item import Item
from lora_cli.core.nearest import nearest
from lora_cli.core.results import LoadReport
from lora_cli.errors import NotFound, UsageError
from lora_cli.runtime.messages import Job
from lora_cli.runtime.plan import Needs


@dataclass(slots=True)
class Entry:
    """One adapter: what was asked for, and what came of it.

    ``by_client`` says that a client named it: then each fetch checks that it may. ``job`` is it on this disk, judged,
    and ``needs`` what it needs of the slots. ``report`` is its last load's, ``proved_by`` the number of the child that
    proved it (``WarmProcess.starts``; 0: none). ``remote`` says that its bytes came from their origin when it was
    brought. ``last_used`` is in seconds since 1970.
    """

    item: Item
    by_client: bool = False
    job: Job | None = None
    needs: Needs | None = None
    report: LoadReport | None = None
    proved_by: int = 0
    remote: bool = False
    requests: int = 0
    last_used: float | None = None


LONGEST_NAME = 100
"""Characters of a name that a client made up, in what it is answered."""

MOST = 100_000

MOST_SUGGESTED, LONGEST_SUGGESTED = 200, 64
"""Among more names, or longer ones, none is suggested for an unknown one: comparing takes time for each of them."""


def shortened(name: str) -> str:
    """A name that a client made up, as it is shown to it."""
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…"


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


FIRST_S, LONGEST_S = 1.0, 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an adapter could not be loaded, how often in a row, and when (on ``clock``) it is tried again."""

    report: LoadReport
    count: int
    until: float


class Failures:
    """Holds the last failure of each adapter by name; a try later is let through after 1 s, then 2, 4, … 300 s."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, Failure] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many adapters failed the last time."""
        return len(self._failures)

    def add(self, name: str, report: LoadReport) -> None:
        """``name`` failed, once more."""
        with self._lock:
            count = self._failures[name].count + 1 if name in self._failures else 1
            wait_s = min(FIRST_S * 2.0 ** min(count - 1, 30), LONGEST_S)
            self._failures[name] = Failure(report, count, self._clock() + wait_s)

    def clear(self, name: str) -> None:
        """It loaded, or is another one now."""
        with self._lock:
            self._failures.pop(name, None)

    def last(self, name: str) -> Failure | None:
        """Why it failed the last time, if it did."""
        return self._failures.get(name)

    def wait_s(self, name: str) -> float:
        """Seconds until it may be tried again; 0 when it may be now."""
        failure = self._failures.get(name)
        return 0.0 if failure is None else max(0.0, failure.until - self._clock())


class Counters:
    """Sums since the server began; any thread may add to them."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.loads = 0
        self.load_bytes = 0
        self.stage_s: defaultdict[str, float] = defaultdict(float)
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()

    def request(self, tier: str) -> None:
        """One request, whose adapter was found in ``tier``."""
        with self._lock:
            self.requests[tier] += 1

    def load(self, report: LoadReport) -> None:
        """One load, with the seconds of each stage; or the stage where it failed."""
        with self._lock:
            for stage, ms in report.stage_ms.items():
                self.stage_s[stage] += ms / 1e3
            if report.error:
                self.failures[report.stage or "load"] += 1
            else:
                self.loads += 1
                self.load_bytes += report.bytes
