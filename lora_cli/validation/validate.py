"""Adapters are validated without a copy: a local one in place, a remote one by its header. Nothing is written.

Of many, remote ones are validated in threads, many local ones in processes, always in their order.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os.path import lexists
from pathlib import Path

from lora_cli.core.adapter_request import Item
from lora_cli.core.addresses import without_secrets
from lora_cli.core.companions import Card, Companions
from lora_cli.core.lock import LockedAdapter
from lora_cli.core.log import log_bug, logger
from lora_cli.core.patterns import one_budget
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.snapshot import Revision
from lora_cli.errors import LoraCliError, MachineError
from lora_cli.fetching.cached_source import CacheFirstSource
from lora_cli.fetching.checkpoint import LatestCheckpoint
from lora_cli.fetching.file_selection import USUAL, Selection
from lora_cli.forks import forks, processors
from lora_cli.reading.adapter import Opened, call_in_threads, read_adapter
from lora_cli.reading.companions import read_card
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_near
from lora_cli.sources.registry import Sources
from lora_cli.validation.verdict import Checked, Stopwatch, Terms, companions_of, gather, judge, suppressed

log = logger(__name__)

WORTH_PROCESSES = 24
"""How many local adapters keep a second processor busy for longer than it takes to start there."""

TOGETHER = 8
"""How many adapters at least are handed to a process at once: few, for all processes to end at about the same time."""

AT_ONCE = 4
"""How many files of one remote adapter are asked for at once, where there are not as many adapters to be read."""

MOST_TOGETHER = 64
"""At most so many: what verdicts share is sent, and kept, once per batch."""


def is_path(text: str) -> bool:
    """Whether ``text`` is a path that exists on this machine; a link that leads nowhere exists too."""
    return "\0" not in text and lexists(Path(text).expanduser())


def ref_of(source: str | AdapterRef) -> AdapterRef:
    """The reference that ``source`` is, or that it is written as, seen from the working directory.

    Raises:
        UsageError: it is none.
    """
    return parse(source, is_path=is_path) if isinstance(source, str) else source


def validate(item: Item, terms: Terms, settings: Settings, sources: Sources | None = None, threads: int = 1) -> Checked:
    """Validate one adapter: a local one in place, a remote one by its header. Nothing is written.

    What the cache has of the same revision of a remote one is read from there, values too. One whose name is empty is
    called what its source is. Its digest and its lock must hold, and ``settings.policies``. ``sources`` are shared with
    other adapters. Of a remote one up to ``threads`` files are read at once: each is a round trip.

    Never raises for what one adapter does wrong: a ``LoraCliError`` is kept in the result, one with exit code 70 where
    a bug shows with this adapter.
    """
    watch = Stopwatch()
    source_text = without_secrets(str(item.source))
    name, revision, adapter = item.name or source_text, None, None
    try:
        ref = ref_of(item.source)
        source_text = str(ref)
        source, revision = resolve_allowed(item, ref, settings, sources or Sources(settings))
        ref = revision.ref
        source_text = str(ref)
        watch.lap("resolve")
        one, companions, card = _read(source, revision, name, terms, settings, threads)
        adapter = one.adapter
        watch.lap("read")
        evidence = gather(one, terms, ref, companions)
        watch.lap("values")
        with one_budget():
            digest = _digest(item, one, settings)
            verdict = suppressed(judge(adapter, terms, evidence), digest, settings)
            watch.lap("rules")
            checked = Checked(name, source_text, revision, adapter, verdict, watch.stage_ms, digest=digest, card=card)
            if terms.spectrum is None and terms.other is None:
                return checked
            from lora_cli.validation.tensor_facts import with_values

            return with_values(checked, one, terms, watch)
    except LoraCliError as error:
        return Checked(name, source_text, revision, adapter, None, watch.stage_ms, error)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - the boundary of one adapter: a bug fails it alone
        log_bug(log, error)
        unexpected = LoraCliError(
            f"{type(error).__name__}: {error}", hint="this is a bug in lora-cli; please report it"
        )
        return Checked(name, source_text, revision, adapter, None, watch.stage_ms, unexpected)


def resolve_allowed(item: Item, ref: AdapterRef, settings: Settings, sources: Sources) -> tuple[Source, Revision]:
    """What ``ref`` means and where it is read, where policies, digest and lock allow it.

    Policies are asked before anything is asked for, and before a file is read.
    """
    origin = LatestCheckpoint(sources.of(ref)) if item.latest else sources.of(ref)
    source = in_place(ref, settings, origin, Selection(latest=item.latest), item.locked)
    if not settings.policies and item.sha256 is None and item.locked is None:
        return source, source.resolve(ref)
    from lora_cli.validation.policy_check import permitted

    return source, permitted(item, ref, source, origin, settings)


def in_place(
    ref: AdapterRef,
    settings: Settings,
    origin: Source,
    selection: Selection = USUAL,
    locked: LockedAdapter | None = None,
) -> Source:
    """Where ``ref`` is read without downloading it: what the cache holds of it as ``selection``, or its origin."""
    if ref.scheme == "file" or not settings.cache_dir.is_dir():
        return origin
    return CacheFirstSource(origin, settings, selection, locked)


def _read(
    source: Source, revision: Revision, name: str, terms: Terms, settings: Settings, threads: int
) -> tuple[Opened, Companions | None, Card | None]:
    """Config and header, what is next to them, and the model card where the terms ask for it."""
    here = is_near(source, revision)
    threads = 1 if here else threads

    adapter, companions, found = call_in_threads(
        threads,
        lambda: read_adapter(source, revision, name, settings.max_header_bytes, threads=threads, weights=terms.weights),
        lambda: companions_of(source, revision, terms, threads),
        lambda: read_card(source, revision, local=here) if terms.card else None,
    )
    return Opened(source, revision, adapter), companions, found


def _digest(item: Item, one: Opened, settings: Settings) -> str | None:
    """The snapshot digest where the cache or the lock has it; files are hashed only for policies with suppressions."""
    if settings.suppressions:
        from lora_cli.validation.policy_check import known_digest

        return known_digest(item, one.revision, one.source)
    if isinstance(one.source, CacheFirstSource) and (digest := one.source.digest(one.revision)) is not None:
        return digest
    locked, ref = item.locked, one.revision.ref
    compared = locked is not None and (ref.scheme == "file" or (ref.pinned and locked.revision == one.revision.id))
    return locked.digest if locked is not None and compared else None


def check_all(items: Sequence[Item], terms: Terms, settings: Settings, *, contents: bool = True) -> Iterator[Checked]:
    """Validate many adapters and give each verdict in their order; at most ``settings.jobs`` are read at once.

    One whose name is empty is called what its source is. A digest and a lock that an item has must hold, as policies.
    Without ``contents`` only the verdicts are kept, so that memory does not grow with what the adapters hold.

    Raises:
        MachineError: a process that validated some of them was killed.
    """
    sources = Sources(settings)
    threads = max(1, min(AT_ONCE, settings.jobs // max(1, len(items))))

    def one(item: Item) -> Checked:
        checked = validate(item, terms, settings, sources, threads)
        return checked if contents else checked.without_contents()

    refs = [item.source for item in items]
    if len(items) < 2:
        yield from map(one, items)
    elif not all(ref.scheme == "file" if isinstance(ref, AdapterRef) else is_path(ref) for ref in refs):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(settings.jobs, len(items))) as pool:
            yield from pool.map(one, items)
    elif len(items) >= WORTH_PROCESSES and (workers := min(processors(), settings.jobs)) > 1:
        yield from in_processes(one, items, workers)
    else:
        yield from map(one, items)


def in_processes(one: Callable[[Item], Checked], items: Sequence[Item], workers: int) -> Iterator[Checked]:
    """Copies of this process, each of which validates every ``workers``-th batch and sends it through its own pipe."""
    together = min(MOST_TOGETHER, max(TOGETHER, len(items) // (workers * 16)))
    batches = [items[first : first + together] for first in range(0, len(items), together)]

    def judge(number: int, send: Callable[[list[Checked]], None]) -> None:
        for batch in batches[number::workers]:
            send([one(item) for item in batch])

    with forks() as start:
        pipes = [start(partial(judge, number)) for number in range(workers)]
        for number in range(len(batches)):
            try:
                judged: list[Checked] = pipes[number % workers].recv()
            except EOFError as error:
                hint = "free some memory, or lower --jobs"
                raise MachineError("a process that validated some of the adapters was killed", hint=hint) from error
            yield from judged


def read_all(items: Sequence[Item], settings: Settings, *, weights: bool = True) -> Iterator[Checked]:
    """Many adapters as they are, by config and header; no rule validates them. Otherwise as ``check_all``.

    Without ``weights`` by their configs alone.
    """
    return check_all(items, Terms(values=False, rules=(), weights=weights), settings)
