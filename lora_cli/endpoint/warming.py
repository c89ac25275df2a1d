"""Adapters fetched and judged for the running engines, and loaded into each of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lora_cli.endpoint.reconcile import AdapterOutcome, DesiredAdapter, ReconcileOptions, Replica, reconcile
from lora_cli.endpoint.servers import Server
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.fetching.batch import FetchContext
from lora_cli.judging.judge import fetch_one, judge_fetched
from lora_cli.judging.read import Terms
from lora_cli.parallel import map_in_threads
from lora_cli.refs.request import Request

PARALLEL_ADMISSIONS = 8
"""Adapters that are fetched and judged at once."""


def warm_servers(
    servers: Sequence[Server],
    items: Sequence[Request],
    context: FetchContext,
    options: ReconcileOptions,
    *,
    wait: Callable[[Server], LoraCliError | None],
    terms_of: Callable[[Collection[str]], Terms],
    path_of: Callable[[Path], str],
) -> tuple[list[Replica], list[AdapterOutcome]]:
    """What was done on each server, and the adapters that none was asked to load.

    ``wait`` waits until a server is ready, or says why it is not. ``terms_of`` gives the terms for servers of these
    versions, and ``path_of`` the path of a folder as the servers see it.
    """
    waited = dict(zip(servers, map_in_threads(wait, servers, len(servers)), strict=True))
    ready = [server for server, error in waited.items() if error is None]
    versions = {server: server.version() for server in ready}
    terms = terms_of(dict.fromkeys(filter(None, versions.values())))
    results = map_in_threads(
        lambda item: judge_fetched(fetch_one(item, context), terms),
        items if ready else (),
        PARALLEL_ADMISSIONS,
    )
    wanted, refused = list[DesiredAdapter](), list[AdapterOutcome]()
    for item, result in zip(items, results, strict=False):
        if result.refusal is not None:
            took_ms = sum(result.stage_ms.values())
            refused.append(AdapterOutcome(item.name, "failed", took_ms, None, result.refusal))
        elif result.snapshot is not None:
            path = path_of(result.snapshot.directory)
            wanted.append(DesiredAdapter(item.name, result.snapshot.digest, path, item.pinned))
    options = replace(options, refused=frozenset(one.name for one in refused))
    serve = partial(reconcile, wanted=wanted, options=options)
    done = dict(zip(ready, map_in_threads(serve, ready, len(ready)), strict=True))
    replicas, pinned = [], any(one.pinned for one in wanted)
    for server in servers:
        adapters, error = done.get(server, ([], waited[server]))
        at, note = str(server.endpoint.address), server.note({one.action for one in adapters}, pinned=pinned)
        replicas.append(Replica(at, server.kind, versions.get(server, ""), error, tuple(adapters), note))
    return replicas, refused


def path_mapping(paths: Sequence[str]) -> Callable[[Path], str]:
    """What maps local paths to those of the servers, by the longest FROM of ``FROM=TO`` that matches.

    Raises:
        UsageError: one is not FROM=TO.
    """
    pairs: dict[Path, str] = {}
    for text in paths:
        ours, _, theirs = text.partition("=")
        if not ours or not theirs.startswith("/"):
            raise UsageError(f"--engine-path {text} is not FROM=TO", hint="--engine-path ~/.cache/lora-cli=/adapters")
        pairs.setdefault(Path(ours).expanduser().absolute(), theirs.rstrip("/"))
    return partial(_mapped, pairs)


def _mapped(pairs: Mapping[Path, str], path: Path) -> str:
    for ours in (path, *path.parents):
        if ours in pairs:
            return f"{pairs[ours]}/{path.relative_to(ours).as_posix()}".rstrip("/")
    return str(path)
