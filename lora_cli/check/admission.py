"""Adapters that are to be loaded: fetched into the cache, and judged there."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.check.outcome import Stopwatch
from lora_cli.check.place import is_path
from lora_cli.check.verdict import Terms, gather, judge
from lora_cli.core.adapter import Adapter
from lora_cli.core.addresses import without_secrets
from lora_cli.core.finding import Severity, Verdict
from lora_cli.core.frozen import dataclass, field
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.snapshot import RemoteFile, Revision, Snapshot
from lora_cli.errors import LoraCliError, Refused
from lora_cli.read.adapter import read_adapter
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.local import snapshot_at
from lora_cli.sources.registry import Sources

if TYPE_CHECKING:
    from lora_cli.fetch.demand import Demand
    from lora_cli.fetch.progress import Progress
    from lora_cli.store import Store
    from lora_cli.store.holds import Hold


Hear = Callable[[str, Snapshot | None], None]
"""Hears each stage as it begins, and the snapshot as soon as it is on this disk, before anything of it is read."""


def unheard(_stage: str, _snapshot: Snapshot | None) -> None:
    """For whoever does not want to know."""


@dataclass(frozen=True, slots=True)
class Admission:
    """One adapter, fetched into the cache and judged there. ``stage`` names where ``error`` happened.

    ``stage_ms`` maps resolve, fetch and validate to milliseconds, as far as it came. ``cached`` says that all of it was
    in the cache before. ``copied_to`` is where else it lies.
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


def admit(
    text: str | AdapterRef,
    name: str,
    terms: Terms,
    store: "Store",
    settings: Settings,
    *,
    demand: "Demand | None" = None,
    sources: Sources | None = None,
    hold: "Hold | None" = None,
    latest: bool = False,
    hear: Hear = unheard,
    progress: "Progress | None" = None,
) -> Admission:
    """Resolve, fetch and judge one adapter, with each stage's time. Never raises for what the adapter does wrong.

    ``demand`` is what must hold for it whatever its origin gives: a policy, a digest. ``sources`` are shared with
    other adapters. ``hold`` keeps what was fetched from being cleaned away as long as it lasts. With ``latest`` it is
    the latest checkpoint of a training run. ``hear`` is told of each stage, ``progress`` of the bytes that come.
    """
    from lora_cli.fetch import ANYTHING, SILENT, Selection, bring
    from lora_cli.fetch.run import held

    watch = Stopwatch()
    snapshot = adapter = None
    cached = False
    stage, source_text = "resolve", without_secrets(str(text))
    hear(stage, None)
    try:
        ref = parse(text, is_path=is_path) if isinstance(text, str) else text
        source_text = str(ref)
        source = _Watched((sources or Sources(settings)).of(ref), watch, hear)
        selection, demand = Selection(latest=latest), demand or ANYTHING
        bring_it = partial(bring, ref, source, store, settings, name=name, demand=demand, selection=selection)
        fetched = held(partial(bring_it, progress=progress or SILENT), store, hold, name)
        snapshot, cached = fetched.snapshot, fetched.cached
        watch.lap("fetch")
        stage = "validate"
        hear(stage, snapshot)
        local, revision = snapshot_at(snapshot.directory)
        adapter = read_adapter(local, revision, name, settings.max_header_bytes)
        verdict = _accepted(judge(adapter, terms, gather(local, revision, adapter, terms, ref)), snapshot, settings)
        watch.lap("validate")
    except LoraCliError as error:
        if stage == "resolve" and "resolve" in watch.stage_ms:
            stage = "fetch"
        watch.lap(stage)
        return Admission(name, source_text, snapshot, adapter, None, watch.stage_ms, stage, error, cached)
    stage = "validate" if verdict.refused() else ""
    return Admission(name, source_text, snapshot, adapter, verdict, watch.stage_ms, stage, None, cached)


def _accepted(verdict: Verdict, snapshot: Snapshot, settings: Settings) -> Verdict:
    """The verdict without what the policies let pass."""
    if not settings.suppressions:
        return verdict
    from lora_cli.check.acceptance import suppressed, today

    return suppressed(verdict, snapshot.digest, settings.suppressions, today())
