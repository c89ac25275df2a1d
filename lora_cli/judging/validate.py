"""Validate adapters: a local one in place, a remote one from the cache, into which its files are brought.

Remote adapters are validated in threads, many local ones in processes; results come in the order of the items.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lora_cli.adapter.beside import read_card
from lora_cli.adapter.byte_ranges import read_beginning
from lora_cli.adapter.reading import call_in_threads, read_adapter, weights_file
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import Corrupt, FormatError, LoraCliError, MachineError, NoAdapter, Refused
from lora_cli.fetching import gate
from lora_cli.fetching.file_selection import check_no_folder_of_adapters, select_files, select_locked
from lora_cli.fetching.pipeline import open_files
from lora_cli.forks import forks, processors
from lora_cli.judging.verdict import (
    Checked,
    Stopwatch,
    Terms,
    companions_of,
    gather_evidence,
    judge,
)
from lora_cli.log import log_bug, logger
from lora_cli.peft.patterns import one_budget
from lora_cli.refs.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.refs.addresses import without_secrets
from lora_cli.refs.reference import AdapterRef, below, is_path, parse
from lora_cli.refs.request import USUAL, Request, Selection
from lora_cli.refs.snapshot import Blob, RemoteFile, snapshot_digest
from lora_cli.settings import Settings
from lora_cli.signing.signed_adapter import Contents, check_signatures
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources

if TYPE_CHECKING:
    from lora_cli.fetching.pipeline import FetchContext

log = logger(__name__)

WORTH_PROCESSES = 24
"""The number of local adapters from which a second process saves more time than it takes to start."""

TOGETHER = 8
"""The smallest batch of adapters for a process: small, so that all processes end at about the same time."""

AT_ONCE = 4
"""How many files of one remote adapter are read at once, if there are fewer adapters than that."""

MOST_TOGETHER = 64
"""The largest batch: what its verdicts share is sent and kept once per batch."""


EVERYTHING = Selection(allow_pickle=True)
"""What is validated of an adapter."""


def ref_of(source: str | AdapterRef) -> AdapterRef:
    """The reference that ``source`` is, or that its text means in the working directory.

    Raises:
        UsageError: the text is not a reference.
    """
    return parse(source, is_path=is_path) if isinstance(source, str) else source


def validate(
    item: Request, terms: Terms, settings: Settings, context: "FetchContext | None" = None, threads: int = 1
) -> Checked:
    """Validate one adapter: a local one in place, a remote one from the cache, into which its files are brought first.

    Without ``context`` a remote adapter that is not cached is read by its header, and nothing is written. An item
    without a name gets its source as its name. Up to ``threads`` files of a remote adapter are read at once. What
    digest, lock or policies refuse of files that can be read is validated all the same: the result has both.

    Never raises for what one adapter does wrong: a ``LoraCliError`` is part of the result, one with exit code 70 for
    a bug that shows with this adapter.
    """
    watch = Stopwatch()
    source_text = without_secrets(str(item.source))
    checked = Checked(item.name or source_text, source_text, stage_ms=watch.stage_ms)
    try:
        item = replace(item, source=ref_of(item.source))
        checked = replace(checked, source=str(item.source), request=item)
        gate.refuse(item, settings)
        sources = context.sources if context is not None else Sources(settings)
        files = open_files(item, settings, sources)
        while context is not None and files.snapshot is not None and not context.in_use.add(files.snapshot.digest):
            files = open_files(item, settings, sources)  # the cache was cleaned meanwhile
        if files.snapshot is not None and any(one.path not in files.snapshot.files for one in _files_to_fetch(files)):
            files = replace(files, snapshot=None)  # the cache has some of them, from an earlier revision
        checked = replace(checked, source=str(files.ref), revision=files.revision, snapshot=files.snapshot)
        check_no_folder_of_adapters(files.revision)
        watch.lap("resolve")
        unread = ""
        if terms.values and context is not None and not files.on_disk:
            files, unread = _bring(item, files, context)
            checked = replace(checked, snapshot=files.snapshot)
        try:
            checked = replace(checked, signers=check_permitted(item, files, settings))
        except (Refused, Corrupt) as error:
            checked = replace(checked, error=error)
        threads, most = 1 if files.on_disk else threads, settings.max_header_bytes
        adapter, companions, card = call_in_threads(
            threads,
            lambda: read_adapter(files, checked.name, most, threads=threads, weights=terms.weights),
            lambda: companions_of(files, terms, threads),
            lambda: read_card(files) if terms.card else None,
        )
        checked = replace(checked, adapter=adapter)
        watch.lap("read")
        evidence = gather_evidence(adapter, files, terms, companions, unread)
        watch.lap("values")
        with one_budget():
            blobs = _known_blobs(item, files)
            digest = snapshot_digest(blobs.items()) if blobs is not None else None
            verdict = judge(adapter, terms, evidence)
            watch.lap("rules")
            return replace(checked, verdict=verdict, digest=digest, card=card)
    except Exception as error:  # noqa: BLE001 - the boundary of one adapter: a bug fails it alone
        return replace(checked, error=error_of(error))


def error_of(error: Exception) -> LoraCliError:
    """What one adapter's result says of ``error``; one that is a bug is logged.

    Raises:
        MemoryError, OSError: as they are: they are no adapter's.
    """
    if isinstance(error, LoraCliError):
        return error
    if isinstance(error, MemoryError | OSError):
        raise error
    log_bug(log, error)
    return LoraCliError(f"{type(error).__name__}: {error}", hint="this is a bug in lora-cli; please report it")


def check_permitted(item: Request, files: Files, settings: Settings) -> tuple[str, ...]:
    """The signers that policies require of ``item``, whose digest and lock must match its ``files``.

    A lock is compared with the bytes that are on this disk, else with the listing. A digest that is unknown before a
    fetch is only an error if a policy needs it.

    Raises:
        Refused: a policy denies it, or needs a digest that is unknown before a fetch; or it differs from the lock.
        Corrupt: its digest differs from the manifest's.
        LoraCliError: what the source raises.
    """
    if not settings.policies and item.sha256 is None and item.locked is None:
        return ()
    ref, at, planned = files.ref, files.revision.pinned, _files_to_fetch(files)
    required = gate.signatures_for(item, settings, at)
    gate.refuse(item, settings, at, planned)
    if item.locked is not None:
        select_locked(files.revision, item.locked, USUAL, planned)
    if item.sha256 is None and item.locked is None and not required:
        return ()
    # What an origin lists may be the signed files, and what it sends others.
    blobs = _blobs(files, planned) if files.on_disk or not required else None
    if blobs is None and not required and (item.sha256 is None or not settings.policies):
        return ()
    if blobs is None:
        hint = "fetch it first: lora-cli fetch verifies it, and validate then reads the cached files"
        why = "policy require_signature: " if required else ""
        raise Refused(f"{ref}: {why}its digest is unknown before it is fetched", hint=hint)
    gate.check_promised(item, blobs, ref)
    if not required:
        return ()
    file = files.file(SIGNATURE)
    signature = read_beginning(files, file, LARGEST_SIGNATURE) if file is not None else None
    contents = Contents(blobs, signature, files.directory, item.signature)
    chosen = partial(select_files, selection=EVERYTHING)
    return check_signatures(ref, required, contents, chosen, offline=settings.offline)


def _files_to_fetch(files: Files) -> tuple[RemoteFile, ...]:
    """The files that a fetch would download; if it is not an adapter, all files with weights."""
    try:
        return select_files(files.revision, EVERYTHING)
    except LoraCliError:
        return tuple(file for file in files if format_of(file.path) and not file.defect)


def _blobs(files: Files, some: Iterable[RemoteFile]) -> dict[str, Blob] | None:
    """The digest and size of each of ``some`` files; None if one is not known."""
    blobs = {file.path: files.blob(file) for file in some}
    return {path: blob for path, blob in blobs.items() if blob is not None} if None not in blobs.values() else None


def _bring(item: Request, files: Files, context: "FetchContext") -> tuple[Files, str]:
    """The files of a remote adapter in the cache, into which they are fetched.

    Also why they were not: a limit, this machine, or what is there is no adapter; then they are read at their origin.

    Raises:
        Refused: a policy denies it.
        LoraCliError: the origin does not give it.
    """
    from lora_cli.fetching.pipeline import fetch

    settings, first = context.settings, weights_file(files)
    pickled = first is not None and not first.path.endswith(".safetensors")
    selection = replace(item.selection, allow_pickle=pickled, latest=False)
    wanted = replace(item, source=files.ref, sha256=None, locked=None, selection=selection)
    try:
        return replace(files, snapshot=fetch(wanted, context, revision=files.revision).snapshot), ""
    except (Refused, FormatError, MachineError) as error:
        if isinstance(error, Refused) and settings.policies:
            raise
        return files, error.message


def _known_blobs(item: Request, files: Files) -> Mapping[str, Blob] | None:
    """The files that a fetch would give, as the cache or the lock has them; None if neither does."""
    if files.snapshot is not None:
        return files.snapshot.files
    locked, ref = item.locked, files.ref
    compared = locked is not None and (ref.scheme == "file" or (ref.pinned and locked.revision == files.revision.id))
    return locked.files if locked is not None and compared else None


def check_all(
    items: Sequence[Request], terms: Terms, settings: Settings, *, contents: bool = True
) -> Iterator[Checked]:
    """Validate many adapters as ``validate`` does, in their order; at most ``settings.jobs`` are read at once.

    An item without a name may be a folder of adapters: each is validated. Without ``contents`` only the verdicts are
    kept, so that memory does not grow with the adapters.

    Raises:
        MachineError: a process that validated some of them was killed.
    """
    for checked in _check_items(items, terms, settings, contents=contents):
        item, error = checked.request, checked.error
        if item is not None and not item.name and isinstance(error, NoAdapter) and error.folders:
            runs = [(below(item.ref, folder), is_run) for folder, is_run in error.folders.items()]
            inside = [replace(item, source=ref, selection=Selection(latest=is_run)) for ref, is_run in runs]
            yield from check_all(inside, terms, settings, contents=contents)
        else:
            yield checked


def _check_items(items: Sequence[Request], terms: Terms, settings: Settings, *, contents: bool) -> Iterator[Checked]:
    context: FetchContext | None = None
    threads = max(1, min(AT_ONCE, settings.jobs // max(1, len(items))))

    def one(item: Request) -> Checked:
        checked = validate(item, terms, settings, context, threads)
        return checked if contents else checked.without_contents()

    def late(item: Request) -> Checked:
        text = without_secrets(str(item.source))
        return Checked(item.name or text, text, error=Deadline.of(text, settings).error(), request=item)

    refs = [item.source for item in items]
    if not all(ref.scheme == "file" if isinstance(ref, AdapterRef) else is_path(ref) for ref in refs):
        from lora_cli.fetching import pipeline
        from lora_cli.fetching.batch import ordered_parallel_map
        from lora_cli.fetching.readers import Deadline
        from lora_cli.store import Store

        # Pins and signatures are judged of what was brought.
        off = {"require_pinned": False, "require_sha256": False, "require_signature": ()}
        policies = tuple(policy.model_copy(update=off) for policy in settings.policies)
        with pipeline.FetchContext(Store(settings.cache_dir), replace(settings, policies=policies)) as context:
            yield from ordered_parallel_map(one, items, settings, late)
    elif len(items) >= WORTH_PROCESSES and (workers := min(processors(), settings.jobs)) > 1:
        yield from check_in_processes(one, items, workers)
    else:
        yield from map(one, items)


def check_in_processes(one: Callable[[Request], Checked], items: Sequence[Request], workers: int) -> Iterator[Checked]:
    """Forks of this process, each of which validates every ``workers``-th batch and sends it through its own pipe."""
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
                hint = "free some memory, or lower jobs (LORA_CLI_JOBS)"
                raise MachineError("a process that validated some of the adapters was killed", hint=hint) from error
            yield from judged


def read_all(items: Sequence[Request], settings: Settings, *, weights: bool = True) -> Iterator[Checked]:
    """Read many adapters by config and header, without rules; without ``weights`` only their configs."""
    return check_all(items, Terms(values=False, rules=(), weights=weights), settings)
