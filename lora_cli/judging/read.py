"""An adapter's files, opened and read: a local one in place, a remote one from the cache or its origin."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_cli.adapter.reading import weights_file
from lora_cli.errors import Corrupt, FormatError, LoraCliError, MachineError, NoAdapter, Refused
from lora_cli.fetching import gate
from lora_cli.fetching.file_selection import check_no_folder_of_adapters, files_to_fetch
from lora_cli.fetching.pipeline import open_files
from lora_cli.judging.result import Result
from lora_cli.parallel import in_processes, processors
from lora_cli.refs.reference import AdapterRef, below, is_path, ref_of
from lora_cli.refs.request import Request, Selection
from lora_cli.settings import Settings
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources

if TYPE_CHECKING:
    from lora_cli.fetching.batch import FetchContext

WORTH_PROCESSES = 24
"""The number of local adapters from which a second process saves more time than it takes to start."""

AT_ONCE = 4
"""How many files of one remote adapter are read at once, if there are fewer adapters than that."""

One = Callable[[Request, "FetchContext | None", int], Result]
"""Reads or judges one adapter, with the context of remote ones, and by so many threads. Raises no ``LoraCliError``."""


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
    if settings.policies:
        gate.refuse(request, settings)
    sources = context.sources if context is not None else Sources(settings)
    files = open_files(request, settings, sources)
    while context is not None and files.snapshot is not None and not context.in_use.add(files.snapshot.digest):
        files = open_files(request, settings, sources)  # the cache was cleaned meanwhile
    if files.snapshot is not None and {one.path for one in files_to_fetch(files.revision)} - {*files.snapshot.files}:
        files = replace(files, snapshot=None)  # the cache has some of them, from an earlier revision
    result.source, result.revision = str(files.ref), files.revision.id
    check_no_folder_of_adapters(files.revision)
    unread = ""
    if whole and context is not None and not files.on_disk:
        files, unread = _bring(request, files, context)
    result.snapshot, result.directory = files.snapshot, files.directory
    if settings.policies or request.sha256 is not None or request.locked is not None:
        try:
            result.signers = gate.accept_in_place(request, files, settings) or None
        except (Refused, Corrupt) as error:
            result.error = error
    ref, locked = files.ref, request.locked
    if files.snapshot is not None:
        result.digest = files.snapshot.digest
    elif locked is not None and (ref.scheme == "file" or (ref.pinned and locked.revision == files.revision.id)):
        result.digest = locked.digest
    return files, unread


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
    context: FetchContext | None = None
    threads = max(1, min(AT_ONCE, settings.jobs // max(1, len(requests))))

    def result_of(request: Request) -> Result:
        result = one(request, context, threads)
        return result if contents else replace(result, adapter=None, card=None)

    def failed(request: Request, error: LoraCliError) -> Result:
        return replace(Result.of(request), error=error)

    with ExitStack() as stack:
        results: Iterator[Result] = map(result_of, requests)
        refs = [request.source for request in requests]
        if not all(ref.scheme == "file" if isinstance(ref, AdapterRef) else is_path(ref) for ref in refs):
            from lora_cli.fetching import batch
            from lora_cli.store import Store

            # Pins and signatures are judged of what was brought.
            off = {"require_pinned": False, "require_sha256": False, "require_signature": ()}
            reached = replace(settings, policies=tuple(one.model_copy(update=off) for one in settings.policies))
            context = stack.enter_context(batch.FetchContext(Store(settings.cache_dir), reached))
            results = batch.ordered_parallel_map(result_of, requests, settings, failed)
        elif len(requests) >= WORTH_PROCESSES and (workers := min(processors(), settings.jobs)) > 1:
            results = in_processes(result_of, requests, workers)
        for result in results:
            request, error = result.request, result.error
            if request is not None and not request.name and isinstance(error, NoAdapter) and error.folders:
                runs = [(below(request.ref, folder), is_run) for folder, is_run in error.folders.items()]
                inside = [replace(request, source=ref, selection=Selection(latest=is_run)) for ref, is_run in runs]
                yield from each(inside, one, settings, contents=contents)
            else:
                yield result
