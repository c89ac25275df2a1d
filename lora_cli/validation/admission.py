"""Adapters that are to be loaded: fetched into the cache, and judged there."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.core.adapter import Adapter
from lora_cli.core.addresses import without_secrets
from lora_cli.core.finding import Severity, Verdict
from lora_cli.core.item import Item
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision, Snapshot
from lora_cli.errors import LoraCliError, Refused
from lora_cli.reading.adapter import Opened, read_adapter
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.local import snapshot_at
from lora_cli.validation.outcome import Stopwatch
from lora_cli.validation.validate import ref_of
from lora_cli.validation.verdict import Terms, gather, judge, suppressed

if TYPE_CHECKING:
    from lora_cli.fetching import FetchContext


Hear = Callable[[str, Snapshot | None], None]
"""Hears each stage as it begins, and the snapshot as soon as it is on this disk, before anything of it is read."""


def unheard(_stage: str, _snapshot: Snapshot | None) -> None:
    """For whoever does not want to know."""


@dataclass(frozen=True, slots=True)
class Admission:
    """One adapter, fetched into the cache and judged there. ``stage`` names where ``error`` happened.

    ``stage_ms`` maps resolve, fetch and validate to milliseconds, as far as it came. ``cached`` says that all of it was
    in the cache before. ``copied_to`` is where else it lies. ``ref`` is what was asked for, as far as it could be read.
    """

    name: str
    source: str
    snapshot: Snapshot | None = None
    adapter: Adapter | None = None
    verdict: Verdict | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    stage: str = ""
    error: LoraCliError | None = None
    cached: bool = False
    copied_to: Path | None = None
    ref: AdapterRef | None = None

    @property
    def refusal(self) -> LoraCliError | None:
        """What kept it out, None if nothing: its error, or the first that the rules found and how many more."""
        if self.error is not None or self.verdict is None:
            return self.error
        errors = [one for one in self.verdict.findings if one.severity is Severity.ERROR and one.accepted is None]
        if not errors:
            return None
        first, problem = errors[0], errors[0].problem
        where = f"{problem.at}: " if str(problem.at) else ""
        more = f" (and {len(errors) - 1} more: lora-cli validate lists them)" if len(errors) > 1 else ""
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
        """Whatever else the source can do, such as open its files where they lie."""
        return getattr(self._source, name)


def fetch_in(item: Item, context: "FetchContext", *, hear: Hear = unheard) -> Admission:
    """Resolve and fetch one adapter, with each stage's time; or the error that kept it from that.

    ``hear`` is told of each stage.
    """
    from lora_cli.fetching import AdapterRequest, Demand, Selection, bring

    watch = Stopwatch()
    name, stage, source_text = item.name, "resolve", without_secrets(str(item.source))
    hear(stage, None)
    try:
        ref = ref_of(item.source)
        source_text = str(ref)
        source = _Watched(context.sources.of(ref), watch, hear)
        demand = Demand(item.sha256, item.locked)
        request = AdapterRequest(ref, name, Selection(latest=item.latest), demand)
        fetched = bring(request, context, source)
        watch.lap("fetch")
    except LoraCliError as error:
        stage = "fetch" if "resolve" in watch.stage_ms else stage
        watch.lap(stage)
        return Admission(name, source_text, stage_ms=watch.stage_ms, stage=stage, error=error)
    return Admission(name, source_text, fetched.snapshot, stage_ms=watch.stage_ms, cached=fetched.cached, ref=ref)


def judge_in(fetched: Admission, terms: Terms, settings: Settings, *, hear: Hear = unheard) -> Admission:
    """What the rules say about an adapter that is in the cache; what could not be fetched stays as it is."""
    if fetched.error is not None:
        return fetched
    snapshot, ref = fetched.snapshot, fetched.ref
    assert snapshot is not None
    assert ref is not None
    watch, adapter = Stopwatch(), None
    hear("validate", snapshot)
    try:
        local, revision = snapshot_at(snapshot.directory)
        adapter = read_adapter(local, revision, fetched.name, settings.max_header_bytes)
        evidence = gather(Opened(local, revision, adapter), terms, ref)
        verdict = suppressed(judge(adapter, terms, evidence), snapshot.digest, settings)
    except LoraCliError as error:
        watch.lap("validate")
        stage_ms = {**fetched.stage_ms, **watch.stage_ms}
        return replace(fetched, adapter=adapter, stage_ms=stage_ms, stage="validate", error=error)
    watch.lap("validate")
    stage = "validate" if verdict.refused() else ""
    stage_ms = {**fetched.stage_ms, **watch.stage_ms}
    return replace(fetched, adapter=adapter, verdict=verdict, stage_ms=stage_ms, stage=stage)
