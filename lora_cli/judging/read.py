"""An adapter's files, opened and read: a local one in place, a remote one from the cache or its origin."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lora_cli.adapter.byte_ranges import read_beginning
from lora_cli.adapter.reading import read_adapter, weights_file
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import Corrupt, FormatError, LoraCliError, MachineError, NoAdapter, Refused
from lora_cli.fetching import gate
from lora_cli.fetching.file_selection import check_no_folder_of_adapters, select_files, select_locked
from lora_cli.fetching.pipeline import open_files
from lora_cli.forks import forks, processors
from lora_cli.judging.result import Result, failing_alone
from lora_cli.refs.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.refs.reference import AdapterRef, below, is_path, parse
from lora_cli.refs.request import USUAL, Request, Selection
from lora_cli.refs.snapshot import Blob, RemoteFile
from lora_cli.settings import Settings
from lora_cli.signing.signed_adapter import Contents, check_signatures
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources

if TYPE_CHECKING:
    from lora_cli.fetching.context import FetchContext

WORTH_PROCESSES = 24
"""The number of local adapters from which a second process saves more time than it takes to start."""

TOGETHER, MOST_TOGETHER = 8, 64
"""The batches of a process: small, so that all end at about the same time; what their results share is sent once."""

AT_ONCE = 4
"""How many files of one remote adapter are read at once, if there are fewer adapters than that."""

EVERYTHING = Selection(allow_pickle=True)
"""What is read of an adapter."""

One = Callable[[Request, "FetchContext | None", int], Result]
"""Reads or judges one adapter, with the context of remote ones, and by so many threads. Raises no ``LoraCliError``."""


def ref_of(source: str | AdapterRef) -> AdapterRef:
    """The reference that ``source`` is, or that its text means in the working directory.

    Raises:
        UsageError: the text is not a reference.
    """
    return parse(source, is_path=is_path) if isinstance(source, str) else source


def read_one(
    request: Request,
    settings: Settings,
    context: "FetchContext | None" = None,
    threads: int = 1,
    *,
    weights: bool = True,
) -> Result:
    """One adapter by config and header, or without ``weights`` by its config. Raises no ``LoraCliError``."""
    result = Result.of(request)
    with failing_alone(result):
        files, _ = open_one(result, settings, context)
        result.adapter = read_adapter(files, result.name, settings.max_header_bytes, threads=threads, weights=weights)
    return result


def open_one(
    result: Result, settings: Settings, context: "FetchContext | None", *, whole: bool = False
) -> tuple[Files, str]:
    """The files of the result's request, and why they are not whole on this disk, if they should be.

    Without ``context`` nothing is written. What digest, lock or policies refuse of files that can be read is the
    result's ``error``, and is read all the same.

    Raises:
        LoraCliError: it cannot be read, or must not be asked for.
    """
    assert result.request is not None
    request = result.request = replace(result.request, source=ref_of(result.request.source))
    result.source = str(request.source)
    gate.refuse(request, settings)
    sources = context.sources if context is not None else Sources(settings)
    files = open_files(request, settings, sources)
    while context is not None and files.snapshot is not None and not context.in_use.add(files.snapshot.digest):
        files = open_files(request, settings, sources)  # the cache was cleaned meanwhile
    if files.snapshot is not None and any(one.path not in files.snapshot.files for one in _files_to_fetch(files)):
        files = replace(files, snapshot=None)  # the cache has some of them, from an earlier revision
    result.source, result.revision = str(files.ref), files.revision.id
    check_no_folder_of_adapters(files.revision)
    unread = ""
    if whole and context is not None and not files.on_disk:
        files, unread = _bring(request, files, context)
    result.snapshot, result.directory = files.snapshot, files.directory
    try:
        result.signers = check_permitted(request, files, settings) or None
    except (Refused, Corrupt) as error:
        result.error = error
    ref, locked = files.ref, request.locked
    if files.snapshot is not None:
        result.digest = files.snapshot.digest
    elif locked is not None and (ref.scheme == "file" or (ref.pinned and locked.revision == files.revision.id)):
        result.digest = locked.digest
    return files, unread


def check_permitted(request: Request, files: Files, settings: Settings) -> tuple[str, ...]:
    """The signers that policies require of ``request``, whose digest and lock must match its ``files``.

    A lock is compared with the bytes that are on this disk, else with the listing. A digest that is unknown before a
    fetch is only an error if a policy needs it.

    Raises:
        Refused: a policy denies it, or needs a digest that is unknown before a fetch; or it differs from the lock.
        Corrupt: its digest differs from the manifest's.
        LoraCliError: what the source raises.
    """
    if not settings.policies and request.sha256 is None and request.locked is None:
        return ()
    ref, at, planned = files.ref, files.revision.pinned, _files_to_fetch(files)
    required = gate.signatures_for(request, settings, at)
    gate.refuse(request, settings, at, planned)
    if request.locked is not None:
        select_locked(files.revision, request.locked, USUAL, planned)
    if request.sha256 is None and request.locked is None and not required:
        return ()
    # What an origin lists may be the signed files, and what it sends others.
    blobs = _blobs(files, planned) if files.on_disk or not required else None
    if blobs is None and not required and (request.sha256 is None or not settings.policies):
        return ()
    if blobs is None:
        hint = "fetch it first: lora-cli fetch verifies it, and validate then reads the cached files"
        why = "policy require_signature: " if required else ""
        raise Refused(f"{ref}: {why}its digest is unknown before it is fetched", hint=hint)
    gate.check_promised(request, blobs, ref)
    if not required:
        return ()
    file = files.file(SIGNATURE)
    signature = read_beginning(files, file, LARGEST_SIGNATURE) if file is not None else None
    contents = Contents(blobs, signature, files.directory, request.signature)
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


def _bring(request: Request, files: Files, context: "FetchContext") -> tuple[Files, str]:
    """The files of a remote adapter in the cache, into which they are fetched.

    Also why they were not: a limit, this machine, or what is there is no adapter; then they are read at their origin.

    Raises:
        Refused: a policy denies it.
        LoraCliError: the origin does not give it.
    """
    from lora_cli.fetching.pipeline import fetch

    first = weights_file(files)
    pickled = first is not None and not first.path.endswith(".safetensors")
    selection = replace(request.selection, allow_pickle=pickled, latest=False)
    wanted = replace(request, source=files.ref, sha256=None, locked=None, selection=selection)
    try:
        return replace(files, snapshot=fetch(wanted, context, revision=files.revision).snapshot), ""
    except (Refused, FormatError, MachineError) as error:
        if isinstance(error, Refused) and context.settings.policies:
            raise
        return files, error.message


def each(requests: Sequence[Request], one: One, settings: Settings, *, contents: bool = True) -> Iterator[Result]:
    """The results of ``one`` in the order of the requests; at most ``settings.jobs`` are read at once.

    A request without a name may be a folder of adapters: each is read. Remote adapters are read in threads, many local
    ones in processes. Without ``contents`` only what was found is kept, so that memory does not grow with the adapters.

    Raises:
        MachineError: a process that read some of them was killed.
    """
    for result in _each(requests, one, settings, contents=contents):
        request, error = result.request, result.error
        if request is not None and not request.name and isinstance(error, NoAdapter) and error.folders:
            runs = [(below(request.ref, folder), is_run) for folder, is_run in error.folders.items()]
            inside = [replace(request, source=ref, selection=Selection(latest=is_run)) for ref, is_run in runs]
            yield from each(inside, one, settings, contents=contents)
        else:
            yield result


def _each(requests: Sequence[Request], one: One, settings: Settings, *, contents: bool) -> Iterator[Result]:
    context: FetchContext | None = None
    threads = max(1, min(AT_ONCE, settings.jobs // max(1, len(requests))))

    def result_of(request: Request) -> Result:
        result = one(request, context, threads)
        return result if contents else replace(result, adapter=None, card=None)

    def late(request: Request) -> Result:
        result = Result.of(request)
        result.error = Deadline.of(result.source, settings).error()
        return result

    refs = [request.source for request in requests]
    if not all(ref.scheme == "file" if isinstance(ref, AdapterRef) else is_path(ref) for ref in refs):
        from lora_cli.fetching import context as shared
        from lora_cli.fetching.batch import ordered_parallel_map
        from lora_cli.fetching.readers import Deadline
        from lora_cli.store import Store

        # Pins and signatures are judged of what was brought.
        off = {"require_pinned": False, "require_sha256": False, "require_signature": ()}
        policies = tuple(policy.model_copy(update=off) for policy in settings.policies)
        with shared.FetchContext(Store(settings.cache_dir), replace(settings, policies=policies)) as context:
            yield from ordered_parallel_map(result_of, requests, settings, late)
    elif len(requests) >= WORTH_PROCESSES and (workers := min(processors(), settings.jobs)) > 1:
        yield from in_processes(result_of, requests, workers)
    else:
        yield from map(result_of, requests)


def in_processes(one: Callable[[Request], Result], requests: Sequence[Request], workers: int) -> Iterator[Result]:
    """Forks of this process, each of which reads every ``workers``-th batch and sends it through its own pipe."""
    together = min(MOST_TOGETHER, max(TOGETHER, len(requests) // (workers * 16)))
    batches = [requests[first : first + together] for first in range(0, len(requests), together)]

    def work(number: int, send: Callable[[list[Result]], None]) -> None:
        for batch in batches[number::workers]:
            send([one(request) for request in batch])

    with forks() as start:
        pipes = [start(partial(work, number)) for number in range(workers)]
        for number in range(len(batches)):
            try:
                results: list[Result] = pipes[number % workers].recv()
            except EOFError as error:
                hint = "free some memory, or lower jobs (LORA_CLI_JOBS)"
                raise MachineError("a process that validated some of the adapters was killed", hint=hint) from error
            yield from results
