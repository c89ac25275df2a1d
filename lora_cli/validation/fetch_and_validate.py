"""Adapters that are to be loaded: fetched into the cache, and validated there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_cli.core.adapter_request import Item
from lora_cli.core.addresses import without_secrets
from lora_cli.core.finding import Severity
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision, Snapshot
from lora_cli.errors import LoraCliError, Refused
from lora_cli.fetching.context import AdapterRequest, FetchContext
from lora_cli.fetching.file_selection import Selection
from lora_cli.fetching.pipeline import fetch
from lora_cli.fetching.requirements import Demand
from lora_cli.reading.adapter import Opened, read_adapter
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.local import snapshot_at
from lora_cli.validation.validate import ref_of
from lora_cli.validation.verdict import Checked, Stopwatch, Terms, gather, judge, suppressed

Hear = Callable[[str, Snapshot | None], None]
"""Hears each stage as it begins, and the snapshot as soon as it is on this disk, before anything of it is read."""


def unheard(_stage: str, _snapshot: Snapshot | None) -> None:
    """The default: ignores them."""


@dataclass(frozen=True, slots=True)
class Admission(Checked):
    """One adapter, fetched into the cache and validated there. ``stage`` names where ``error`` happened.

    ``stage_ms`` maps resolve, fetch and validate to milliseconds, as far as it came. ``cached`` says that all of it was
    in the cache before. ``copied_to`` is where else it is. ``ref`` is what was asked for, as far as it could be read.
    """

    snapshot: Snapshot | None = None
    stage: str = ""
    cached: bool = False
    copied_to: Path | None = None
    ref: AdapterRef | None = None

    @property
    def refusal(self) -> LoraCliError | None:
        """Why it was not accepted, None if it was: its error, or the first that the rules found and how many more."""
        errors = [one for one in self.findings if one.severity is Severity.ERROR and one.accepted is None]
        if self.error is not None or not errors:
            return self.error
        first, problem = errors[0], errors[0].problem
        where = f"{problem.at}: " if str(problem.at) else ""
        more = f" (and {len(errors) - 1} more: see lora-cli validate)" if len(errors) > 1 else ""
        return Refused(f"{first.code} {first.name}: {where}{problem.message}{more}", hint=problem.hint)


class _Watched:
    """A source that books the time of ``resolve`` apart from the time of the bytes."""

    def __init__(self, source: Source, watch: Stopwatch, hear: Hear) -> None:
        self._source, self._watch, self._hear = source, watch, hear

    def resolve(self, ref: AdapterRef) -> Revision:
        revision = self._source.resolve(ref)
        self._watch.lap("resolve")
        self._hear("fetch", None)
        return revision

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        return self._source.read(revision, file, start, stop)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the source can do, such as open its files where they are."""
        return getattr(self._source, name)


def fetch_in(item: Item, context: FetchContext, *, hear: Hear = unheard, turn: int = 0) -> Admission:
    """Resolve and fetch one adapter, with each stage's time; or the error that kept it from that.

    ``hear`` is called for each stage.
    """
    watch, ref = Stopwatch(), None
    source_text = without_secrets(str(item.source))
    hear("resolve", None)
    try:
        ref = ref_of(item.source)
        source_text = str(ref)
        source = _Watched(context.sources.of(ref), watch, hear)
        demand = Demand(item.sha256, item.locked)
        request = AdapterRequest(ref, item.name, Selection(latest=item.latest), demand, turn=turn)
        fetched = fetch(request, context, source)
        context.total.check(turn, item.name, fetched.snapshot.size)
    except LoraCliError as error:
        stage = "fetch" if "resolve" in watch.stage_ms else "resolve"
        watch.lap(stage)
        return Admission(item.name, source_text, stage_ms=watch.stage_ms, error=error, stage=stage)
    finally:
        context.total.finish(turn)
    watch.lap("fetch")
    return Admission(
        item.name, source_text, stage_ms=watch.stage_ms, snapshot=fetched.snapshot, cached=fetched.cached, ref=ref
    )


def judge_in(fetched: Admission, terms: Terms, settings: Settings, *, hear: Hear = unheard) -> Admission:
    """What the rules say about an adapter that is in the cache; what could not be fetched stays as it is."""
    if fetched.error is not None:
        return fetched
    assert fetched.snapshot is not None
    assert fetched.ref is not None
    watch, judged = Stopwatch(), fetched
    hear("validate", fetched.snapshot)
    try:
        local, revision = snapshot_at(fetched.snapshot.directory)
        adapter = read_adapter(local, revision, fetched.name, settings.max_header_bytes)
        judged = replace(judged, adapter=adapter)
        evidence = gather(Opened(local, revision, adapter), terms, fetched.ref)
        verdict = suppressed(judge(adapter, terms, evidence), fetched.snapshot.digest, settings)
        judged = replace(judged, verdict=verdict, stage="validate" if verdict.refused() else "")
    except LoraCliError as error:
        judged = replace(judged, error=error, stage="validate")
    watch.lap("validate")
    return replace(judged, stage_ms={**fetched.stage_ms, **watch.stage_ms})
