"""Threads that read ranges of files ahead of the adapters' own threads, which take the bytes in order.

Parallel connections hide the latency of each request, and get more of a network that limits each connection.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal

from lora_cli.errors import Corrupt, Refused
from lora_cli.refs.snapshot import Blob, RemoteFile
from lora_cli.sources import NoRanges
from lora_cli.store.disk import on_disk, write_all
from lora_cli.store.partials import Partial

if TYPE_CHECKING:
    from lora_cli.fetching.pipeline import Deadline

RANGE = 4 << 20
"""Bytes of one range."""

WINDOW = 80 << 20
"""Bytes of all adapters that may be in flight, or in memory because they are not taken yet."""

SMALL = 1 << 20
"""A range of no more bytes is handed on whole: each time, two threads wait for each other."""

MAX_CHUNKS = 16
"""Chunks of a stream of unknown length that wait to be taken."""

POLL_S = 0.5


@dataclass(eq=False, slots=True)
class Transfer:
    """One file between its origin and its partial file, of which ``frontier`` bytes are written and hashed.

    ``resumed``: the first of them were here before. After an ``error`` no further range of it is read. The name of the
    partial file means nothing to users; that of the ``cache`` does.
    """

    label: str
    file: RemoteFile
    partial: Partial
    cache: Path
    read: Callable[[int, int | None], Iterator[bytes]]
    frontier: int = 0
    resumed: bool = False
    error: BaseException | None = None
    sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def parts(self) -> "list[_Part]":
        """What is missing of it."""
        if (size := self.file.size) is None:
            return [_Part(self, self.frontier, None)]
        return [_Part(self, at, min(size, at + RANGE)) for at in range(self.frontier, size, RANGE)]

    def digest(self, hasher: "hashlib._Hash") -> str:
        """The digest of ``hasher`` and, after what it has, the bytes of the partial file; raises ``MachineError``."""
        with on_disk("reading", self.partial.path), open(self.partial.descriptor, "rb", closefd=False) as stream:
            stream.seek(0)
            return hashlib.file_digest(stream, lambda: hasher).hexdigest()

    def write(self, chunk: bytes, limit: int | None) -> None:
        """Appends to the partial file.

        Raises:
            Refused: it has more than ``limit`` bytes then.
            MachineError: a disk error.
        """
        if limit is not None and self.frontier + len(chunk) > limit:
            raise Refused(f"{self.label} has more than {limit} bytes", hint="raise max_bytes (LORA_CLI_MAX_BYTES)")
        with on_disk(f"writing {self.label} to", self.cache):
            write_all(self.partial.descriptor, chunk, self.frontier)
        self.sha256.update(chunk)
        self.frontier += len(chunk)

    def verified(self, reported: Mapping[str, str]) -> Blob:
        """The blob, compared with what its origin lists, and with each sha256 ``reported`` in its metadata.

        Raises ``Corrupt``: the size, a sha256 or, where none is listed, the git blob id differs.
        """
        file, blob = self.file, Blob(self.sha256.hexdigest(), self.frontier)
        checks = [("size", file.size, blob.size), ("sha256", file.sha256, blob.sha256)]
        if file.git_sha1 is not None and file.sha256 is None:
            git_id = self.digest(hashlib.sha1(b"blob %d\0" % self.frontier, usedforsecurity=False))
            checks.append(("git blob", file.git_sha1, git_id))
        for name, listed, received in [*checks, *((name, sha256, blob.sha256) for name, sha256 in reported.items())]:
            if listed not in {None, received}:
                hint = "the source, or a proxy in between, serves different bytes than it lists"
                raise Corrupt(f"{self.label}: expected {name} {listed}, received {received}", hint=hint)
        return blob


@dataclass(eq=False, slots=True)
class _Part:
    """Bytes ``start`` to ``stop`` (None: to the end) of a file: lists of its ``chunks``, each with what follows."""

    file: Transfer
    start: int
    stop: int | None
    chunks: SimpleQueue[tuple[list[bytes], BaseException | Literal["more"] | None]] = field(default_factory=SimpleQueue)
    dropped: bool = False

    @property
    def size(self) -> int:
        return RANGE if self.stop is None else self.stop - self.start


class Readers:
    """At most ``jobs`` daemon threads, started as they are needed: an interrupt never waits for a silent network."""

    def __init__(self, jobs: int) -> None:
        self._jobs, self._threads, self._ahead, self._closed = jobs, 0, 0, False
        self._parts = SimpleQueue[_Part | None]()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Stops the threads, and whoever takes bytes; a thread that hangs in a connection ends with the process."""
        self._closed = True
        for _ in range(self._threads):
            self._parts.put(None)

    def receive(self, files: Sequence[Transfer], deadline: "Deadline") -> Generator[tuple[Transfer, bytes], None, None]:
        """What is missing of the files, in order and as it arrives; small files first. Close it when it is left early.

        Raises:
            LoraCliError: the first error in that order, after the bytes before it; or the deadline passed.
            KeyboardInterrupt: the readers were closed meanwhile.
        """
        by_size = sorted(files, key=lambda file: file.file.size or 0)
        waiting, active = deque(part for file in by_size for part in file.parts()), deque[_Part]()
        try:
            while waiting or active:
                if self._closed:
                    raise KeyboardInterrupt
                while waiting and self._begin(waiting[0], beside=active):
                    active.append(waiting.popleft())
                part = active[0]
                try:
                    chunks, end = part.chunks.get(timeout=deadline.left_s(POLL_S))
                except Empty:
                    continue
                for chunk in chunks:
                    yield part.file, chunk
                if end == "more":
                    continue
                if end is None:
                    self._end([active.popleft()])
                elif isinstance(end, NoRanges) and part.stop is not None:
                    self._end(one for one in active if one.file is part.file)
                    active = deque(one for one in active if one.file is not part.file)
                    waiting = deque(one for one in waiting if one.file is not part.file)
                    waiting.appendleft(_Part(part.file, part.file.frontier, None))
                else:
                    raise end
        finally:
            self._end(active)

    def _begin(self, part: _Part, *, beside: Sequence[_Part]) -> bool:
        """Has a part read, if the window allows it; an adapter may always have one, so that none waits for others."""
        with self._lock:
            if beside and self._ahead + part.size > WINDOW:
                return False
            self._ahead += part.size
            self._parts.put(part)
            if self._threads < self._jobs:
                threading.Thread(target=self._work, name=f"range-{self._threads}", daemon=True).start()
                self._threads += 1
        return True

    def _end(self, parts: Iterable[_Part]) -> None:
        with self._lock:
            for part in parts:
                part.dropped = True
                self._ahead -= part.size

    def _work(self) -> None:
        for part in iter(self._parts.get, None):
            end = part.file.error if part.stop else None
            is_small, held = part.stop is not None and part.size <= SMALL, list[bytes]()
            try:
                for chunk in part.file.read(part.start, part.stop) if end is None and not part.dropped else ():
                    if part.dropped:
                        break
                    if is_small:
                        held.append(chunk)
                        continue
                    part.chunks.put(([chunk], "more"))
                    while part.stop is None and part.chunks.qsize() >= MAX_CHUNKS and not part.dropped:
                        time.sleep(0.001)  # the disk is slower than the network
            except BaseException as error:  # noqa: BLE001 - it is raised where the bytes are taken
                end = part.file.error = error
            part.chunks.put((held, end))
