"""Adapters, and the base models that they are for, opened where they are: on this disk, in the cache, or elsewhere."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.adapter.reading import weights_file
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import (
    Corrupt,
    FormatError,
    MachineError,
    NoAdapter,
    Offline,
    Refused,
    UsageError,
)
from lora_cli.fetching import gate
from lora_cli.fetching.file_selection import check_no_folder_of_adapters, files_to_fetch
from lora_cli.fetching.pipeline import fetch, open_files
from lora_cli.finding import Deployment
from lora_cli.judging.result import Result
from lora_cli.parallel import in_processes, processors
from lora_cli.parse import json_object
from lora_cli.refs.adapter_files import BASE_CONFIG
from lora_cli.refs.reference import AdapterRef, below, hub_words, is_path, ref_of, repository_of
from lora_cli.refs.request import BASE, LockedAdapter, Request, Selection
from lora_cli.settings import Settings
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources
from lora_cli.text import cut, safe

if TYPE_CHECKING:
    from lora_cli.checks.check import Check
    from lora_cli.engines import Profile
    from lora_cli.fetching.batch import FetchContext

WORTH_PROCESSES = 24
"""The number of local adapters from which a second process saves more time than it takes to start."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What adapters are read and judged by, the same for all of one run.

    ``base`` is the base model of all adapters; without it each has that of its own config if ``way`` says how the user
    can name one, else none. Without ``values`` the tensors' values are not read. ``rules`` are the checks that are
    asked for (None: the usual ones). ``engines`` are the engines that will serve the adapters, started as
    ``deployment`` says; without engines PEFT's behaviour counts, and of the deployment ``max_lora_rank``.

    Remote adapters are fetched with ``context``; without it they are read by their headers, and nothing is written.
    Results keep what was read only with ``contents``: else memory would grow with the adapters. ``own_bases`` are the
    bases of configs that were opened by now.
    """

    settings: Settings
    base: BaseModel | None = None
    way: str = ""
    values: bool = True
    rules: "Sequence[Check] | None" = None
    engines: "tuple[Profile, ...]" = ()
    deployment: Deployment = field(default_factory=Deployment)
    context: "FetchContext | None" = None
    contents: bool = True
    own_bases: dict[str, tuple[BaseModel | None, str, int]] = field(default_factory=dict)


One = Callable[[Request, Terms], Result]
"""Reads or judges one adapter. Raises no ``LoraCliError``: it is part of the result."""


def each(requests: Sequence[Request], one: One, terms: Terms) -> Iterator[Result]:
    """The results of ``one`` in the order of the requests; at most ``settings.jobs`` are read at once.

    A request without a name may be a folder of adapters: each is read. Remote adapters are read in threads, many local
    ones in processes.

    Raises:
        MachineError: a process that read some of them was killed.
    """
    settings, refs = terms.settings, [request.source for request in requests]
    with ExitStack() as stack:
        if not all(ref.scheme == "file" if isinstance(ref, AdapterRef) else is_path(ref) for ref in refs):
            from lora_cli.fetching import batch
            from lora_cli.store import Store

            # Pins and signatures are judged of what was brought.
            off = {"require_pinned": False, "require_sha256": False, "require_signature": ()}
            reached = replace(settings, policies=tuple(one.model_copy(update=off) for one in settings.policies))
            reach = replace(terms, context=stack.enter_context(batch.FetchContext(Store(settings.cache_dir), reached)))
            results = batch.ordered_parallel_map(
                lambda request: one(request, reach),
                requests,
                settings,
                lambda request, error: replace(Result.of(request), error=error),
            )
        elif len(requests) >= WORTH_PROCESSES and (workers := min(processors(), settings.jobs)) > 1:
            results = in_processes(lambda request: one(request, terms), requests, workers)
        else:
            results = (one(request, terms) for request in requests)
        for result in results:
            request, error = result.request, result.error
            if request is not None and not request.name and isinstance(error, NoAdapter) and error.folders:
                runs = [(below(request.ref, folder), is_run) for folder, is_run in error.folders.items()]
                inside = [replace(request, source=ref, selection=Selection(latest=is_run)) for ref, is_run in runs]
                yield from each(inside, one, terms)
            else:
                yield result


def open_one(result: Result, terms: Terms, *, whole: bool = False) -> tuple[Files, str]:
    """The files of the result's request, and why they are not ``whole`` on this disk, if they should be.

    Then a remote adapter is fetched into the cache; one that cannot be is read at its origin.

    What digest, lock or policies refuse of files that can be read is the result's ``error``, and is read all the same.

    Raises:
        LoraCliError: it cannot be read, or must not be asked for.
    """
    assert result.request is not None
    settings, context, unread = terms.settings, terms.context, ""
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
    if whole and context is not None and not files.on_disk:
        first = weights_file(files)
        pickled = first is not None and not first.path.endswith(".safetensors")
        selection = replace(request.selection, allow_pickle=pickled, latest=False)
        wanted = replace(request, source=files.ref, sha256=None, locked=None, selection=selection)
        try:
            files = replace(files, snapshot=fetch(wanted, context, revision=files.revision).snapshot)
        except (Refused, FormatError, MachineError) as error:  # too large, no adapter, or this machine
            if isinstance(error, Refused) and context.settings.policies:
                raise
            unread = error.message
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


def open_base(base: str | AdapterRef, settings: Settings, *, locked: LockedAdapter | None = None) -> BaseModel:
    """The base model that ``base`` names: a directory, a ``config.json``, a Hub id or any reference.

    Only its config is read, never weights. The config of a ``locked`` base is that of the lock, and nothing is asked.

    Raises:
        NotFound, AccessDenied, Unreachable, FormatError: it cannot be found or read.
    """
    from lora_cli.base.families import base_from_config
    from lora_cli.base.reading import read_base

    ref = ref_of(base)
    name = ref.name if isinstance(base, AdapterRef) and ref.scheme == "file" else str(base)
    is_file = ref.scheme == "file" and Path(ref.location).is_file()
    try:
        if locked is not None:
            model = base_from_config(json_object(locked.config.encode(), BASE_CONFIG), name)
        else:
            files = None if is_file else open_files(Request("", ref, selection=BASE), settings, Sources(settings))
            model = read_base(files or Path(ref.location), name)
    except Offline as error:
        hint = "lora-cli fetch -f locks a manifest's base, or set --base to a folder or a config.json on this disk"
        raise Offline(error.message, hint=hint) from error
    return replace(model, repository=repository_of(ref) or model.repository)


def unreadable(base: str) -> str:
    """Why a base that a config names is neither a Hub repository nor a local folder; empty if it is."""
    is_known = hub_words(base) or os.path.isdir(base)  # noqa: PTH112 - a name that no system takes is no folder
    return "" if is_known else f"{safe(cut(base))} is not on this machine"


def check_tp(base: BaseModel | None, tp: int) -> None:
    """Engines give each GPU whole attention heads.

    Raises:
        UsageError: ``tp`` does not divide the heads of ``base``.
    """
    if base is not None and base.heads is not None and base.heads % tp:
        message = f"--tp {tp} does not divide the {base.heads} attention heads of {base.name}"
        raise UsageError(message, hint="no engine would start")
