"""Many adapters at once: fetched, planned or repaired, and what their fetches share. One that fails stops no other."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, TypeVar

from lora_cli.errors import LoraCliError, bug_of
from lora_cli.fetching import gate
from lora_cli.fetching.file_selection import select
from lora_cli.fetching.pipeline import Fetched, fetch, open_files, recorded, too_late
from lora_cli.json_schema import Count, ErrorReport, error_report
from lora_cli.redaction import logger
from lora_cli.refs.reference import parse
from lora_cli.refs.request import BASE, LockedAdapter, Request, Selection
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import InUse, Store
from lora_cli.store.records import all_records
from lora_cli.store.snapshots import find_snapshot
from lora_cli.text import by_key

if TYPE_CHECKING:
    from lora_cli.fetching.download import Downloads
    from lora_cli.store.materialize import Published

MAX_THREADS = 32
POLL_S = 0.1
GRACE_S = 2.0
"""How long after its deadline an adapter is waited for, to leave its files in order; then it is given up."""

T = TypeVar("T")
log = logger(__name__)


class Progress:
    """How a fetch reports its progress, from many threads, each with its ``adapter``'s name; logs waits alone."""

    def began(self, adapter: str, size: int) -> None:
        """A download begins; ``size`` bytes are missing, as far as their number is known."""

    def advanced(self, adapter: str, count: int) -> None:
        """``count`` more bytes are here; a negative ``count`` takes wrong ones back."""

    def waiting(self, adapter: str) -> None:
        """This process waits for another one that downloads the same adapter."""
        log.warning("%s: waiting for another process that fetches it", adapter)


SILENT = Progress()


class FetchContext(ExitStack):
    """The shared state of the fetches of one run: cache, settings, sources, threads and limits.

    ``in_use`` keeps what is fetched from being garbage-collected; by default, until the context is closed.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        progress: Progress = SILENT,
        *,
        in_use: InUse | None = None,
        sources: Sources | None = None,
    ) -> None:
        super().__init__()
        store.check_folder()
        self.store, self.settings, self.progress = store, settings, progress
        self.in_use = in_use or self.enter_context(InUse(store))
        self.sources = sources or Sources(settings)

    @cached_property
    def downloads(self) -> "Downloads":
        """The threads that read from origins, and the space that the adapters of this run share."""
        from lora_cli.fetching.download import Downloads

        shared: Downloads = vars(self).setdefault("downloads", Downloads(self.store, self.settings))  # of many threads
        self.callback(shared.close)
        return shared


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one request: ``fetched`` after ``ms`` milliseconds, or its ``error``.

    ``directory`` is where the caller has written it, ``published`` what was published there, and ``warnings``
    what is said of it.
    """

    request: Request
    fetched: Fetched | None
    error: LoraCliError | None
    ms: float = 0.0
    directory: Path | None = None
    published: "Published | None" = None
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code for this adapter alone."""
        return self.error.exit_code if self.error is not None else 0


def fetch_all(
    requests: Sequence[Request], store: Store, settings: Settings, *, progress: Progress = SILENT
) -> Iterator[Outcome]:
    """Fetches all adapters and yields their outcomes in order, each as soon as it and those before it are known.

    ``settings.jobs`` ranges are in flight over all of them. Errors other than ``LoraCliError`` are raised here.
    """

    def one(request: Request) -> Outcome:
        began_s = time.perf_counter()
        return Outcome(request, fetch(request, context), None, (time.perf_counter() - began_s) * 1000)

    with FetchContext(store, settings, progress) as context:
        yield from ordered_parallel_map(one, requests, settings, lambda request, error: Outcome(request, None, error))


def ordered_parallel_map(
    call: Callable[[Request], T],
    requests: Sequence[Request],
    settings: Settings,
    failed: Callable[[Request, LoraCliError], T],
) -> Iterator[T]:
    """The results of ``call`` in the order of ``requests``, each as soon as it is known; ``settings.jobs`` run at once.

    The result of a call that raises a ``LoraCliError``, or takes over ``settings.adapter_timeout_s``, is that of
    ``failed``; the daemon thread of one that takes too long is abandoned. A bug fails one adapter, too; memory and
    disks that end, and interrupts, are raised here.
    """
    results: dict[int, Future[T]] = {number: Future() for number in range(len(requests))}
    began_s: dict[int, float] = {}
    left = iter(range(len(requests)))  # all threads take the next one of it

    def work() -> None:
        with suppress(InvalidStateError):  # its call timed out: another thread has replaced this one
            for index in left:
                result, began_s[index] = results[index], time.monotonic()
                try:
                    found = call(requests[index])
                except LoraCliError as error:
                    result.set_result(failed(requests[index], error))
                except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                    if isinstance(error, Exception) and not isinstance(error, MemoryError | OSError):
                        result.set_result(failed(requests[index], bug_of(log, error)))
                    else:
                        result.set_exception(error)
                else:
                    result.set_result(found)

    def start(count: int) -> None:
        for _ in range(count):
            threading.Thread(target=work, name="fetch", daemon=True).start()

    start(min(settings.jobs, MAX_THREADS, len(requests)))
    for number in range(len(requests)):
        while not wait([results[number]], POLL_S).done:
            for index, result in results.items():
                since_s = began_s.get(index, math.inf)
                with suppress(InvalidStateError):  # it has just ended
                    if time.monotonic() - since_s > settings.adapter_timeout_s + GRACE_S and not result.done():
                        result.set_result(failed(requests[index], too_late(requests[index].label, settings)))
                        start(1)
        yield results.pop(number).result()


def repair_cache(store: Store, settings: Settings, only: Set[str] | None = None) -> Iterator[Outcome]:
    """Fetches again every recorded snapshot that is missing or corrupt, or those with a digest in ``only``.

    The ``sha256`` of a request is the digest, its name the reference. The records of a snapshot are tried until one
    origin still has the same bytes. Tokens and endpoints are those of this run, never from the cache.
    """
    for digest, records in sorted(by_key((record.snapshot, record) for record in all_records(store)).items()):
        if (only is not None and digest not in only) or find_snapshot(store, records[0].files) is not None:
            continue
        # Other selections of the same reference have the same origin.
        for record in {record.ref: record for record in records}.values():
            # Pickles that were fetched before were allowed then.
            selection = BASE if record.selection == str(BASE) else Selection(allow_pickle=True)
            locked = LockedAdapter(record.ref, record.ref, record.revision, record.files)
            source = parse(record.ref, is_path=lambda _: False)
            request = Request(record.ref, source, digest, locked=locked, selection=selection)
            (outcome,) = fetch_all([request], store, settings)
            if outcome.error is None:
                break
        yield outcome


@dataclass(frozen=True, slots=True)
class PlannedAdapter:
    """What fetch would do with one adapter."""

    name: str
    ref: str | None
    revision: str | None = field(default_factory=NoneType)
    """What it means now; null if its source was not asked, or does not give it."""
    files: Count = 0
    bytes: Count = 0
    """Bytes of all files, as far as the source reports them."""
    missing_files: Count = 0
    """Files that are not in the cache."""
    missing_bytes: Count = 0
    """Bytes of these, as far as the source reports them."""
    exit_code: Count = 0
    error: ErrorReport | None = field(default_factory=NoneType)


def plan_all(requests: Sequence[Request], store: Store, settings: Settings) -> Iterator[PlannedAdapter]:
    """The plan for each request, in their order: origins are asked for listings, and no file is downloaded."""
    sources = Sources(settings)

    def planned(request: Request) -> PlannedAdapter:
        gate.refuse(request, settings)
        revision = open_files(request, settings, sources).revision
        files, selection = select(request, revision)
        gate.refuse(request, settings, revision.pinned, files)
        snapshot, known = recorded(request, revision, files, selection, store, settings)
        missing = list[RemoteFile]()
        if snapshot is not None:
            gate.check_promised(request, snapshot.files, revision.ref)
        else:
            digests = ((file, known[file.path].sha256 if file.path in known else file.sha256) for file in files)
            missing = [file for file, sha256 in digests if not (sha256 and os.path.lexists(store.blob(sha256)))]
        total, to_load = (sum(file.size or 0 for file in some) for some in (files, missing))
        which = request.name, request.canonical, revision.id or None
        return PlannedAdapter(*which, len(files), total, len(missing), to_load)

    def failed(request: Request, error: LoraCliError) -> PlannedAdapter:
        return PlannedAdapter(request.name, request.canonical, exit_code=error.exit_code, error=error_report(error))

    yield from ordered_parallel_map(planned, requests, settings, failed)
