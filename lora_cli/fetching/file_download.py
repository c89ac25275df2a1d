"""The download of one file: ranges arrive in any order; their bytes are written and hashed in order.

The thread that receives the next bytes also writes those that wait behind them; one thread writes at a time.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lora_cli.core.snapshot import Blob, RemoteFile
from lora_cli.errors import Corrupt, MachineError, Refused, TooSlow, Unreachable
from lora_cli.sources import NoRanges
from lora_cli.store.disk import flush, on_disk, write_all
from lora_cli.store.partials import Partial

CHUNK = 1 << 20
FLUSHED_BYTES = 64 << 20
"""Bytes that are written between two flushes, so that the last one is short."""

EMPTY_READS = 3
"""How often a stream may end early without a byte and without an error."""

Read = Callable[[int, int | None], Iterator[bytes]]


@dataclass(eq=False)
class Transfer:
    """The state of one file between its origin and its partial file.

    ``frontier`` bytes are written and hashed; later ones wait in memory. ``assigned`` bytes were given out as ranges
    (-1: the whole file of unknown size), of which ``in_flight`` ranges are being read. ``resumed``: the first bytes are
    from an earlier writer. ``advanced`` is called with the number of bytes that were written.
    """

    label: str
    file: RemoteFile
    partial: Partial
    read: Read
    advanced: Callable[[int], None]
    limit: int | None = None
    error: BaseException | None = None
    frontier: int = 0
    assigned: int = 0
    in_flight: int = 0
    resumed: bool = False
    _waiting: dict[int, bytes] = field(default_factory=dict)
    _writing: bool = False
    _flushed: int = 0
    _flushing: threading.Thread | None = None
    _single_stream: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def rehash(self) -> None:
        """Hashes what an earlier writer left, so that the download can continue behind it.

        Raises:
            MachineError: it cannot be read.
        """
        for chunk in self._chunks():
            self._hash(chunk)
        self.assigned = self.frontier
        self.resumed = self.frontier > 0

    def _chunks(self) -> Iterator[bytes]:
        """The bytes of the partial file, in order."""
        at = 0
        with on_disk("reading", self.partial.path):
            while chunk := os.pread(self.partial.descriptor, CHUNK, at):
                yield chunk
                at += len(chunk)

    def take(self, step: int) -> tuple[int, int | None] | None:
        """Assigns the next range of at most ``step`` bytes, if there is one. A file of unknown size is one range."""
        size, start = self.file.size, self.assigned
        if not self.has_more or (self._single_stream and self.in_flight):
            return None
        if self._single_stream:
            # The one stream has all bytes that are not written yet.
            self._waiting.clear()
            start = self.frontier
        if self._single_stream or size is None:
            self.assigned = -1
            return start, None
        self.assigned = min(size, start + step)
        return start, self.assigned

    @property
    def ahead(self) -> int:
        """Bytes that are assigned and not written yet: those that arrive early wait in memory."""
        return max(0, self.assigned - self.frontier)

    @property
    def has_more(self) -> bool:
        """Whether a part of it is still to be assigned."""
        size, assigned = self.file.size, self.frontier if self._single_stream else self.assigned
        return self.error is None and self.assigned >= 0 and (size is None or assigned < size)

    def ranges(self, step: int) -> int:
        """How many ranges of ``step`` bytes are being read or still to be assigned."""
        size, assigned = self.file.size, max(0, self.assigned)
        left = 1 if size is None else -(-(size - assigned) // step)
        return self.in_flight + (left if self.has_more else 0)

    @property
    def finished(self) -> bool:
        """Whether no range is being read, and none will be."""
        return self.in_flight == 0 and not self.has_more

    def run(self, start: int, stop: int | None) -> None:
        """Reads a range to its end. A stream that breaks after some bytes is continued; the source has waited.

        From an origin without ranges the rest of the file is read as one stream, once the ranges in flight have ended.

        Raises:
            Unreachable: the stream broke without any bytes.
            Corrupt: the stream has more bytes than the range.
            MachineError: the bytes cannot be written.
        """
        empty = 0
        while stop is None or start < stop:
            before = start
            try:
                for chunk in self.read(start, stop):
                    if self.error is not None:
                        return
                    if stop is not None and start + len(chunk) > stop:
                        raise Corrupt(f"{self.label}: the server sent more bytes than its size")
                    self._receive(start, chunk)
                    start += len(chunk)
                if stop is None:
                    return
            except NoRanges:
                if stop is None:
                    raise
                self._single_stream = True
                return
            except Unreachable as error:
                if start == before or isinstance(error, TooSlow):
                    raise
            empty = empty + 1 if start == before else 0
            if empty >= EMPTY_READS:
                raise Unreachable(f"{self.label}: the stream ends at byte {start}", hint="try again later")

    def _receive(self, offset: int, chunk: bytes) -> None:
        """Queues a chunk, then writes and hashes all chunks that are next, unless another thread does."""
        with self._lock:
            self._waiting[offset] = chunk
            if self._writing:
                return
            self._writing = True
        try:
            while (following := self._next_to_write()) is not None:
                self._write(following)
                self.advanced(len(following))
        except BaseException as error:
            self.error = self.error or error
            raise
        if self.frontier - self._flushed >= FLUSHED_BYTES:
            self._begin_flush()

    def _next_to_write(self) -> bytes | None:
        with self._lock:
            chunk = self._waiting.pop(self.frontier, None)
            self._writing = chunk is not None
            return chunk

    def _begin_flush(self) -> None:
        with self._lock:
            if self._flushing is not None and self._flushing.is_alive():
                return
            self._flushed = self.frontier
            arguments = (os.dup(self.partial.descriptor),)
            self._flushing = threading.Thread(target=self._flush, args=arguments, name="flush", daemon=True)
        self._flushing.start()

    def _flush(self, descriptor: int) -> None:
        """Flushes the file in a thread of its own, so that the writers need not wait."""
        try:
            with on_disk("writing", self.partial.path):
                flush(descriptor)
        except MachineError as error:
            self.error = self.error or error
        finally:
            os.close(descriptor)

    def _write(self, chunk: bytes) -> None:
        if self.limit is not None and self.frontier + len(chunk) > self.limit:
            raise Refused(f"{self.label} has more than {self.limit} bytes", hint="raise max_bytes (LORA_CLI_MAX_BYTES)")
        with on_disk(*self._writing_to):
            write_all(self.partial.descriptor, chunk, self.frontier)
        self._hash(chunk)

    @cached_property
    def _writing_to(self) -> tuple[str, Path]:
        """For errors. The name of the partial file means nothing to users; that of the cache does."""
        return f"writing {self.label} to", self.partial.path.parents[1]

    def _hash(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self.frontier += len(chunk)

    def verified(self) -> Blob:
        """The blob, after its sha256 (else its git blob id) and its size, where known, were verified.

        Raises:
            Corrupt: they differ from the listed ones.
            MachineError: the bytes could not be flushed.
        """
        if self._flushing is not None:
            self._flushing.join()
            if self.error is not None:
                raise self.error
        file, found = self.file, self._sha256.hexdigest()
        if file.size is not None and self.frontier != file.size:
            raise self._wrong(f"{file.size} bytes", f"{self.frontier}")
        if file.sha256 is not None and found != file.sha256:
            raise self._wrong(f"sha256 {file.sha256}", found)
        if file.sha256 is None and file.git_sha1 is not None and (blob_id := self._git_blob_id()) != file.git_sha1:
            raise self._wrong(f"git blob {file.git_sha1}", blob_id)
        return Blob(found, self.frontier)

    def _git_blob_id(self) -> str:
        hasher = hashlib.sha1(b"blob %d\0" % self.frontier, usedforsecurity=False)
        for chunk in self._chunks():
            hasher.update(chunk)
        return hasher.hexdigest()

    def _wrong(self, promised: str, found: str) -> Corrupt:
        hint = "the source, or a proxy in between, serves different bytes than it lists"
        return Corrupt(f"{self.label}: expected {promised}, received {found}", hint=hint)
