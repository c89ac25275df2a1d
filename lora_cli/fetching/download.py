"""The one downloader: files of a revision → blobs in the store, whatever the source.

Threads read ranges of files ahead of the adapters' own threads, which take the bytes in order: parallel connections
hide the latency of each request, and get more of a network that limits each connection.
"""

import errno
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial as bound
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal

from lora_cli.errors import Corrupt, MachineError, Refused
from lora_cli.fetching.gate import byte_limit
from lora_cli.refs.snapshot import Blob, RemoteFile
from lora_cli.settings import Settings, bytes_kept_free
from lora_cli.sources import NoRanges
from lora_cli.sources.files import Files
from lora_cli.sources.registry import endpoint_of
from lora_cli.store import Store
from lora_cli.store.disk import FULL, nearest_folder, on_disk, reflink
from lora_cli.store.inventory import tree_bytes
from lora_cli.store.snapshots import Partial, has_blob, open_partial, store_blobs
from lora_cli.text import size

if TYPE_CHECKING:
    from lora_cli.fetching.batch import FetchContext
    from lora_cli.fetching.pipeline import Deadline

MAX_OPEN_FILES = 64
"""Files of one adapter that are downloaded at once."""

MISMATCH_RETRIES = 2
"""How often a file is downloaded again when its bytes are not the listed ones."""

RANGE = 4 << 20
"""Bytes of one range."""

WINDOW = 80 << 20
"""Bytes of all adapters that may be in flight, or in memory because they are not taken yet."""

HANDED_ON = 1 << 20
"""So many bytes of a range are handed on at once: each time, two threads wait for each other."""

MAX_CHUNKS = 16
"""Chunks of a stream of unknown length that wait to be taken."""

POLL_S = 0.5


def download(
    at: Files, wanted: Sequence[RemoteFile], known: Mapping[str, Blob], deadline: "Deadline", context: "FetchContext"
) -> Mapping[str, Blob]:
    """Path → blob of the ``wanted`` files ``at`` an origin, each verified and in the store.

    A file whose blob is cached is not downloaded; ``known`` has those of files that are unchanged since an earlier
    fetch. After an error or a kill the next call resumes the partial files, in this process or another; when the disk
    is full they are removed.

    Raises ``Refused`` (a file is larger than the limit), ``Corrupt`` (the bytes are not the listed ones, also after the
    retries; or they changed meanwhile), ``Unreachable`` (the origin does not answer any more, or not in time),
    ``MachineError`` (a disk error), ``LostBlob`` (another process cleaned up: try again).
    """
    store, blobs, tries, endpoint = context.store, dict[str, Blob](), 0, endpoint_of(at.ref, context.settings)
    for file in wanted:
        blob = Blob(file.sha256, file.size) if file.sha256 and file.size is not None else known.get(file.path)
        if blob is not None and has_blob(store, blob):
            blobs[file.path] = blob
    missing = [(_partial_key(at, file, endpoint), file) for file in wanted if file.path not in blobs]
    here = sum(min(tree_bytes(store.partials / f"{key}.part"), file.size or 0) for key, file in missing)
    total = sum(file.size or 0 for _, file in missing)
    context.progress.began(deadline.name, total)
    with context.downloads.reserve(deadline, total - here):
        while missing:
            for first in range(0, len(missing), MAX_OPEN_FILES):
                some = missing[first : first + MAX_OPEN_FILES]
                blobs |= _download_batch(at, some, tries, deadline, context)
            missing, tries = [one for one in missing if one[1].path not in blobs], tries + 1
    return blobs


def _download_batch(
    at: Files, files: Sequence[tuple[str, RemoteFile]], tries: int, deadline: "Deadline", context: "FetchContext"
) -> dict[str, Blob]:
    """The blobs of some files, each with the key of its partials, without those that are to be downloaded again.

    After an error the partial files stay, to be resumed; not when the disk is full, the bytes are wrong, or a file
    exceeds the limit.
    """
    source, progress, limit, name = at.source, context.progress, byte_limit(context.settings), deadline.name
    transfers, blobs, failure, kept = list[Transfer](), dict[Transfer, Blob](), None, False
    try:
        for key, file in files:
            # Without a known size nothing is resumed: a partial may be longer than the file.
            digest_known = file.sha256 is not None or file.git_sha1 is not None
            partial = open_partial(context.store, key, file.size or 0, digest_known=digest_known)
            read = bound(source.read, at.revision, file)
            transfers.append(transfer := Transfer(f"{name}: {file.path}", file, partial, read))
            if frontier := partial.size if tries else _reuse_local_bytes(at, file, partial):
                transfer.digest(transfer.sha256)
                transfer.frontier, transfer.resumed = frontier, True
                progress.advanced(name, frontier)
        with closing(context.downloads.receive(transfers, deadline)) as received:
            for transfer, chunk in received:
                if limit is not None and transfer.frontier + len(chunk) > limit:
                    said = f"{transfer.label} has more than {limit} bytes"
                    raise Refused(said, hint="raise max_bytes (LORA_CLI_MAX_BYTES)")  # noqa: TRY301 - as any error here
                with on_disk(f"writing {transfer.label} to", context.store.root):
                    transfer.partial.write(chunk, transfer.frontier)
                transfer.sha256.update(chunk)
                transfer.frontier += len(chunk)
                context.downloads.left[deadline] -= len(chunk)
                progress.advanced(name, len(chunk))
        for transfer in transfers:
            try:
                blobs[transfer] = transfer.verified(source.reported_digests(at.revision, transfer.file))
            except Corrupt as error:
                # What was here before may be wrong although the origin is not: it gets one more try.
                if tries >= min(MISMATCH_RETRIES, context.settings.retries) + transfer.resumed:
                    failure = error
                progress.advanced(name, -transfer.frontier)
                transfer.frontier = 0
        store_blobs(context.store, [(one.partial, blob) for one, blob in blobs.items()])
    except BaseException as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL
        kept = not full and not isinstance(error, (Corrupt, Refused))
        raise
    finally:
        for transfer in transfers:
            transfer.partial.close(keep=kept and transfer.frontier > 0)
    if failure is not None:
        raise failure
    return {transfer.file.path: blob for transfer, blob in blobs.items()}


def _reuse_local_bytes(at: Files, file: RemoteFile, target: Partial) -> int:
    """The length of a partial file, after it was filled with bytes of this machine, shared where the disk can do that.

    The caller hashes them as a leftover's. Files of a local folder are shared or read as those of any source. Of the
    cache of huggingface_hub only files with a known digest and size are taken, as far as they can be copied.

    Raises ``Corrupt`` (a local file changed meanwhile), ``MachineError`` (this user may not read a local file).
    """
    length = target.size
    if length >= (file.size or 0):
        return length
    # The Hub's client names what it caches by the origin's own digest: a lock may have added a sha256.
    listed = at.file(file.path) or file
    with at.source.local_copy(at.revision, listed) as found:
        if found is None or (not length and reflink(found, target.descriptor)):
            return length if found is None else os.fstat(target.descriptor).st_size
        with suppress(OSError):  # the rest is fetched, and says what is wrong with the disk
            while (listed.sha256 or listed.git_sha1) and (
                chunk := os.pread(found, min(HANDED_ON, (file.size or 0) - length), length)
            ):
                target.write(chunk, length)
                length += len(chunk)
    return os.fstat(target.descriptor).st_size


def _partial_key(at: Files, file: RemoteFile, endpoint: str) -> str:
    """The key of a file's partials: its sha256, else a hash of its origin, version and path.

    Without a digest, bytes from another server are never resumed.
    """
    if file.sha256 is not None:
        return file.sha256
    ref, version = at.ref, file.identity or at.revision.id
    text = f"{ref.scheme}\n{ref.location}\n{ref.subfolder}\n{version}\n{file.path}\n{endpoint}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


@dataclass(eq=False, slots=True)
class Transfer:
    """One file between its origin and its partial file, of which ``frontier`` bytes are written and hashed.

    ``resumed``: the first of them were here before. After an ``error`` no further range of it is read.
    """

    label: str
    file: RemoteFile
    partial: Partial
    read: Callable[[int, int | None], Iterator[bytes]]
    frontier: int = 0
    resumed: bool = False
    error: BaseException | None = None
    sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def parts(self) -> "list[_Part]":
        """What is missing of it. One without a version is one stream: its ranges could be of several."""
        if (end := self.file.size) is None or not self.file.identity:
            return [_Part(self, self.frontier, None)]
        return [_Part(self, at, min(end, at + RANGE)) for at in range(self.frontier, end, RANGE)]

    def digest(self, hasher: "hashlib._Hash") -> str:
        """The digest of ``hasher`` and, after what it has, the bytes of the partial file; raises ``MachineError``."""
        with on_disk("reading", self.partial.path), open(self.partial.descriptor, "rb", closefd=False) as stream:
            stream.seek(0)
            return hashlib.file_digest(stream, lambda: hasher).hexdigest()

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
    """Bytes ``start`` to ``stop`` (None: to the end) of a file: its ``chunks``, each with what follows."""

    file: Transfer
    start: int
    stop: int | None
    chunks: SimpleQueue[tuple[bytes, BaseException | Literal["more"] | None]] = field(default_factory=SimpleQueue)
    dropped: bool = False

    @property
    def size(self) -> int:
        return RANGE if self.stop is None else self.stop - self.start


class Downloads:
    """What the downloads of a run share: space on the disk, memory, and ``settings.jobs`` threads.

    These are daemons, started as they are needed: an interrupt never waits for a silent network. ``left`` has the bytes
    that each adapter has still to write; whoever writes them counts them down.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._threads, self._ahead, self._idle = 0, 0, threading.Semaphore(0)
        self._parts, self._lock = SimpleQueue[_Part | None](), threading.Lock()
        self.left: dict[Deadline, int] = {}

    def close(self) -> None:
        """Stops the threads; one that hangs in a connection ends with the process."""
        for _ in range(self._threads):
            self._parts.put(None)

    @contextmanager
    def reserve(self, deadline: "Deadline", needed: int) -> Iterator[None]:
        """Reserves ``needed`` bytes for an adapter, beside what others of this run have still to write.

        Where the budget of the cache is exceeded, the least recently used snapshots are removed. Raises
        ``MachineError`` if the disk is too small, and ``Refused`` if the budget is, and everything is in use.
        """
        with self._lock:
            if needed > 0:
                self._check_space(deadline.name, needed, sum(max(0, left) for left in self.left.values()))
            self.left[deadline] = needed
        try:
            yield
        finally:
            with self._lock:
                del self.left[deadline]

    def _check_space(self, name: str, needed: int, others: int) -> None:
        root, budget = self._store.root, self._settings.cache_budget
        beside = f", {size(others)} reserved for other adapters of this run" if others else ""
        if budget is not None:
            from lora_cli.store.gc import Retention, cache_bytes, collect

            if budget - others - cache_bytes(self._store) < needed <= budget - others:
                collect(self._store, Retention(max_bytes=budget - others - needed))
            if (used := cache_bytes(self._store)) + others + needed > budget:
                found = f"{size(needed)} needed, the cache budget is {size(budget)}, with {size(used)} in use{beside}"
                hint = "raise cache_budget (LORA_CLI_CACHE_BUDGET), or remove adapters (lora-cli cache rm)"
                raise Refused(f"{name}: {found}", hint=hint)
        with on_disk("reading", root):
            status = os.statvfs(nearest_folder(root))
        kept = bytes_kept_free(self._settings.keep_free, status.f_blocks * status.f_frsize)
        free = status.f_bavail * status.f_frsize
        if needed + others + kept > free:
            found = f"{size(needed)} needed, {size(free)} free, with {size(kept)} to be kept free{beside}"
            hint = "run lora-cli cache gc, use a larger disk, or lower keep_free (LORA_CLI_KEEP_FREE)"
            raise MachineError(f"{root}: {found}", hint=hint) from OSError(errno.ENOSPC, "")

    def receive(self, files: Sequence[Transfer], deadline: "Deadline") -> Generator[tuple[Transfer, bytes]]:
        """What is missing of the files, in order and as it arrives; small files first. Close it when it is left early.

        Raises ``LoraCliError`` (the first error in that order, after the bytes before it; or the deadline passed).
        """
        by_size = sorted(files, key=lambda file: file.file.size or 0)
        waiting, active = deque(part for file in by_size for part in file.parts()), deque[_Part]()
        try:
            while waiting or active:
                while waiting and self._begin(waiting[0], beside=active):
                    active.append(waiting.popleft())
                part = active[0]
                try:
                    chunk, end = part.chunks.get(timeout=deadline.left_s(POLL_S))
                except Empty:
                    continue
                if chunk:
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
            if not self._idle.acquire(blocking=False) and self._threads < self._settings.jobs:
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
            held, length = list[bytes](), 0
            try:
                for chunk in part.file.read(part.start, part.stop) if end is None and not part.dropped else ():
                    if part.dropped:
                        break
                    held.append(chunk)
                    length += len(chunk)
                    if length < HANDED_ON:
                        continue
                    part.chunks.put((b"".join(held), "more"))
                    held, length = [], 0
                    while part.stop is None and part.chunks.qsize() >= MAX_CHUNKS and not part.dropped:
                        time.sleep(0.001)  # the disk is slower than the network
            except BaseException as error:  # noqa: BLE001 - it is raised where the bytes are taken
                end = part.file.error = error
            part.chunks.put((b"".join(held), end))
            self._idle.release()
