"""Threads that read ranges of files ahead of the adapters' own threads, which take the bytes in order.

Parallel connections hide the latency of each request, and get more of a network that limits each connection.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_cli.errors import Corrupt, TooSlow, Unreachable
from lora_cli.fetching.deadline import Deadline
from lora_cli.sources import NoRanges

if TYPE_CHECKING:
    from lora_cli.fetching.download import Transfer

RANGE = 4 << 20
"""Bytes of one range."""

WINDOW = 80 << 20
"""Bytes of all adapters that may be in flight, or in memory because they are not taken yet."""

EMPTY_READS = 3
"""How often a stream may end early without a byte and without an error."""


@dataclass(eq=False, slots=True)
class _Part:
    """Bytes of a file from ``at`` to ``stop`` (None: its end) that are still to be read; ``held`` are to be taken."""

    file: "Transfer"
    at: int
    stop: int | None
    size: int
    chunks: deque[bytes] = field(default_factory=deque)
    held: int = 0
    started: bool = False
    ended: bool = False
    error: BaseException | None = None


@dataclass(eq=False, slots=True)
class _Feed:
    """The parts of one adapter in order: the ``active`` ones are read or not taken yet, the ``waiting`` ones follow."""

    waiting: deque[_Part]
    changed: threading.Condition
    active: deque[_Part] = field(default_factory=deque)


class Readers:
    """At most ``jobs`` daemon threads, started as they are needed: an interrupt never waits for a silent network."""

    def __init__(self, jobs: int) -> None:
        self._jobs, self._threads, self._closed = jobs, 0, False
        self._feeds: list[_Feed] = []
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)

    def close(self) -> None:
        """Stops the threads, and whoever waits for bytes; a thread that hangs in a connection is not waited for."""
        with self._lock:
            self._closed = True
            self._more.notify_all()
            for feed in self._feeds:
                feed.active.clear()
                feed.changed.notify_all()

    def receive(
        self, files: "Sequence[Transfer]", deadline: Deadline
    ) -> "Generator[tuple[Transfer, bytes], None, None]":
        """What is missing of the files, in order and as it arrives; small files first. Close it when it is left early.

        Raises:
            LoraCliError: the error of the first range that failed, after the bytes before it; or the deadline passed.
            KeyboardInterrupt: the readers were closed meanwhile.
        """
        feed = _Feed(deque(_parts(files)), threading.Condition(self._lock))
        with self._lock:
            self._feeds.append(feed)
            while self._threads < min(self._jobs, sum(len(one.waiting) + len(one.active) for one in self._feeds)):
                threading.Thread(target=self._work, name=f"range-{self._threads}", daemon=True).start()
                self._threads += 1
            self._more.notify()
        try:
            while feed.active or feed.waiting:
                with self._lock:
                    arrived = feed.changed.wait_for(
                        lambda: self._closed or (feed.active and (feed.active[0].chunks or feed.active[0].ended)),
                        deadline.left_s(threading.TIMEOUT_MAX),
                    )
                    if self._closed:
                        raise KeyboardInterrupt
                    if not arrived or deadline.passed:
                        raise deadline.error()
                    part = feed.active[0]
                    if not part.chunks:
                        if part.error is not None:
                            raise part.error
                        feed.active.popleft()
                        self._more.notify()
                        continue
                    chunk = part.chunks.popleft()
                    part.held -= len(chunk)
                    feed.changed.notify_all()
                yield part.file, chunk
        finally:
            with self._lock:
                self._feeds.remove(feed)
                feed.active.clear()
                feed.changed.notify_all()
                self._more.notify()

    def _next(self) -> tuple[_Feed, _Part] | None:
        """The next part to read, of the adapter with the fewest; waits for one. None when the readers are closed.

        A stream is only read when all before it was taken, and the first part of an adapter always: none waits for
        others, and no thread for an adapter that takes something else.
        """
        with self._lock:
            while not self._closed:
                ahead = sum(part.size for feed in self._feeds for part in feed.active)
                for feed in sorted(self._feeds, key=lambda feed: len(feed.active)):
                    following = feed.waiting[0] if feed.waiting else None
                    if feed.active and not feed.active[0].started:
                        part = feed.active[0]
                    elif following and (not feed.active or (following.stop and ahead + following.size <= WINDOW)):
                        feed.active.append(part := feed.waiting.popleft())
                    else:
                        continue
                    part.started = True
                    self._more.notify()  # there may be another one for another thread
                    return feed, part
                self._more.wait()
            return None

    def _work(self) -> None:
        while (work := self._next()) is not None:
            feed, part = work
            error: BaseException | None = None
            try:
                self._read(feed, part)
            except BaseException as failure:  # noqa: BLE001 - it is raised where the bytes are taken
                error = failure
            with self._lock:
                if isinstance(error, NoRanges) and (stop := part.stop) is not None and part in feed.active:
                    # The rest of the file comes as one stream.
                    part.stop, part.started = None, False
                    feed.active = deque(one for one in feed.active if one.file is not part.file or one.at < stop)
                    feed.waiting = deque(one for one in feed.waiting if one.file is not part.file)
                else:
                    part.ended, part.error = True, error
                feed.changed.notify_all()
                self._more.notify()

    def _read(self, feed: _Feed, part: _Part) -> None:
        """Reads a part to its end. A stream that breaks after some bytes is continued; the source has waited."""
        empty = 0
        while part.stop is None or part.at < part.stop:
            before = part.at
            try:
                for chunk in part.file.read(part.at, part.stop):
                    part.at += len(chunk)
                    if part.stop is not None and part.at > part.stop:
                        raise Corrupt(f"{part.file.label}: the server sent more bytes than its size")
                    with self._lock:
                        feed.changed.wait_for(lambda: part.held < RANGE or part not in feed.active)
                        if part not in feed.active:
                            return
                        part.chunks.append(chunk)
                        part.held += len(chunk)
                        feed.changed.notify_all()
                if part.stop is None:
                    return
            except Unreachable as error:
                if part.at == before or isinstance(error, TooSlow):
                    raise
            empty = empty + 1 if part.at == before else 0
            if empty >= EMPTY_READS:
                raise Unreachable(f"{part.file.label}: the stream ends at byte {part.at}", hint="try again later")


def _parts(files: "Sequence[Transfer]") -> Iterator[_Part]:
    for file in sorted(files, key=lambda file: file.file.size or 0):
        size = file.file.size
        if size is None:
            yield _Part(file, file.frontier, None, RANGE)
        for start in range(file.frontier, size or 0, RANGE):
            stop = min(size or 0, start + RANGE)
            yield _Part(file, start, stop, stop - start)
