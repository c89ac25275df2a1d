"""One adapter brought into a cache, as a run of its own does it."""

from types import SimpleNamespace
from typing import Any, cast

from lora_cli.fetching.batch import FetchContext
from lora_cli.fetching.pipeline import Fetched
from lora_cli.fetching.pipeline import fetch as fetch_request
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.request import USUAL, Request, Selection
from lora_cli.refs.snapshot import Snapshot
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import Sources
from lora_cli.store import Store


def bring(
    ref: AdapterRef,
    source: Source | Sources,
    store: Store,
    settings: Settings,
    *,
    selection: Selection = USUAL,
    **demanded: Any,
) -> Fetched:
    one = source if isinstance(source, Sources) else cast(Sources, SimpleNamespace(of=lambda _: source))
    with FetchContext(store, settings, sources=one) as context:
        return fetch_request(Request("", ref, selection=selection, **demanded), context)


def fetch(
    ref: AdapterRef, source: Source, store: Store, settings: Settings, *, selection: Selection = USUAL
) -> Snapshot:
    return bring(ref, source, store, settings, selection=selection).snapshot
