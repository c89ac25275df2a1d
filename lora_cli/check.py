"""The only place where fetch, read and rules meet: references × a base model → verdicts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.finding import Finding, Severity, Skipped, Verdict
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import LoraCliError, Offline, Refused
from lora_cli.read.adapter import read_adapter
from lora_cli.rules import RULES
from lora_cli.rules.application import apply
from lora_cli.rules.case import Case, Values
from lora_cli.rules.rule import Rule, run
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source

if TYPE_CHECKING:
    from lora_cli.core.snapshot import Snapshot
    from lora_cli.fetch.demand import Demand
    from lora_cli.store import Store

Fallback = Callable[[Mapping[str, Any]], BaseModel]


@dataclass(frozen=True, slots=True)
class Terms:
    """What adapters are judged against, the same for all of one run.

    ``base`` is None where there is none, ``base_reason`` then says why. ``values`` False leaves the tensors' values
    unread. ``max_lora_rank`` is the limit of whoever will serve them, None for no limit.
    """

    base: BaseModel | None = None
    base_reason: str = "no base model was given"
    values: bool = True
    max_lora_rank: int | None = None
    rules: tuple[Rule, ...] = RULES


@dataclass(frozen=True, slots=True)
class Checked:
    """One adapter, judged where it lies; or ``error``, which kept it from being read at all.

    ``source`` is the canonical reference (or what was written, when it is none); ``stage_ms`` maps resolve, read,
    values and rules to milliseconds.
    """

    name: str
    source: str
    revision: Revision | None = None
    adapter: Adapter | None = None
    verdict: Verdict | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    error: LoraCliError | None = None

    def exit_code(self, fail_on: Severity = Severity.ERROR) -> int:
        """What this adapter alone would end the command with."""
        if self.error is not None:
            return self.error.exit_code
        return int(self.verdict is not None and self.verdict.refused(fail_on))


@dataclass(frozen=True, slots=True)
class Admission:
    """One adapter, fetched into the cache and judged there. ``stage`` names where ``error`` happened.

    ``stage_ms`` maps resolve, fetch and validate to milliseconds, as far as it came.
    """

    name: str
    source: str
    snapshot: "Snapshot | None" = None
    adapter: Adapter | None = None
    verdict: Verdict | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    stage: str = ""
    error: LoraCliError | None = None

    @property
    def refusal(self) -> LoraCliError | None:
        """What kept it out, None if nothing: its error, or the first that the rules found and how many more."""
        if self.error is not None or self.verdict is None:
            return self.error
        errors = [finding for finding in self.verdict.findings if finding.severity is Severity.ERROR]
        if not errors:
            return None
        first, problem = errors[0], errors[0].problem
        where = f"{problem.at}: " if str(problem.at) else ""
        more = f" (and {len(errors) - 1} more: lora-cli validate lists them)" if len(errors) > 1 else ""
        return Refused(f"{first.code} {first.name}: {where}{problem.message}{more}", hint=problem.hint)


class Stopwatch:
    """Milliseconds by stage, in the order in which the stages ended."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}
        self._since = perf_counter()

    def lap(self, stage: str) -> None:
        """End ``stage``: it took the time since the last lap, less what was booked inside it."""
        now = perf_counter()
        self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + (now - self._since) * 1000
        self._since = now


class _Watched:
    """A source that books the time of ``resolve`` apart from the time of the bytes."""

    def __init__(self, source: Source, watch: Stopwatch) -> None:
        self._source, self._watch = source, watch

    def resolve(self, ref: AdapterRef) -> Revision:
        revision = self._source.resolve(ref)
        self._watch.lap("resolve")
        return revision

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        return self._source.read(revision, file, start, stop)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the source can do, such as open its files where they lie."""
        return getattr(self._source, name)


def judge(
    adapter: Adapter, terms: Terms, *, stats: Mapping[str, Values] | None = None, stats_reason: str = ""
) -> Verdict:
    """What the rules of ``terms`` say about ``adapter``; pure. ``stats_reason`` says why there are no ``stats``."""
    application = apply(adapter, terms.base)
    case = Case(
        adapter,
        application,
        terms.base,
        stats,
        terms.base_reason,
        stats_reason or "the values were not read",
        terms.max_lora_rank,
    )
    said = [outcome for rule in terms.rules for outcome in run(rule, case)]
    return Verdict(
        adapter=adapter.name,
        findings=tuple(outcome for outcome in said if isinstance(outcome, Finding)),
        skipped=tuple(outcome for outcome in said if isinstance(outcome, Skipped)),
        applied=application.applied if terms.base is not None and case.has_weights else None,
    )


def is_path(text: str) -> bool:
    """Whether ``text`` is a path that exists on this machine; a link that leads nowhere exists too."""
    from os.path import lexists

    return "\0" not in text and lexists(Path(text).expanduser())


def check_in_place(
    text: str | AdapterRef, terms: Terms, settings: Settings, *, name: str = "", base_dir: Path | None = None
) -> Checked:
    """Judge one adapter where it lies: a local one in place, a remote one by its header. Nothing is written.

    What the cache has of the same revision of a remote one is read from there, values too.

    Never raises for what one adapter does wrong: a ``LoraCliError`` is kept in the result. ``base_dir`` is what
    relative paths are relative to (a manifest's folder).
    """
    watch = Stopwatch()
    source_text = str(text)
    revision = adapter = None
    try:
        ref = parse(text, is_path=is_path, base_dir=base_dir) if isinstance(text, str) else text
        source_text = str(ref)
        source = _in_place(ref, settings)
        revision = source.resolve(ref)
        watch.lap("resolve")
        adapter = read_adapter(source, revision, name or str(text))
        watch.lap("read")
        stats, why_not = _stats(source, revision, adapter, terms)
        watch.lap("values")
        verdict = judge(adapter, terms, stats=stats, stats_reason=why_not)
        watch.lap("rules")
    except LoraCliError as error:
        return Checked(name or str(text), source_text, revision, adapter, None, watch.stage_ms, error)
    return Checked(adapter.name, source_text, revision, adapter, verdict, watch.stage_ms)


def _in_place(ref: AdapterRef, settings: Settings) -> Source:
    source = open_source(ref.scheme, settings)
    if ref.scheme == "file":
        return source
    from lora_cli.fetch.here import here_first

    return here_first(source, settings)


def _stats(
    source: Source, revision: Revision, adapter: Adapter, terms: Terms
) -> tuple[Mapping[str, Values] | None, str]:
    if not terms.values:
        return None, "--no-values was given"
    if revision.ref.scheme != "file" and not getattr(source, "holds", lambda _: False)(revision):
        return None, "the values of a remote adapter are not read; fetch it first"
    if adapter.weights_error is not None or not adapter.weight_files:
        return None, "the weights could not be read"
    from lora_cli.read.values import scan_values

    return scan_values(source, revision, adapter), ""


def check_all(
    items: Sequence[tuple[str, str | AdapterRef]], terms: Terms, settings: Settings, *, base_dir: Path | None = None
) -> Iterator[Checked]:
    """Judge many adapters, (name or nothing, reference) each, in their order; remote ones ``settings.jobs`` at once."""

    def one(item: tuple[str, str | AdapterRef]) -> Checked:
        return check_in_place(item[1], terms, settings, name=item[0], base_dir=base_dir)

    remote = any(not is_path(str(text)) for _, text in items)
    if len(items) < 2 or not remote:
        yield from map(one, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(settings.jobs, len(items))) as pool:
        yield from pool.map(one, items)


def open_base(
    base: str | AdapterRef, settings: Settings, *, base_dir: Path | None = None, fallback: Fallback | None = None
) -> BaseModel:
    """The base model that ``base`` names: a directory, a ``config.json``, a Hub id or any reference.

    Only its config and header ranges are read, never weights. ``fallback`` makes a model of an unknown family.

    Raises:
        NotFound, AccessDenied, Unreachable, FormatError: as its source and its files give reason to.
    """
    from lora_cli.read.base import read_base, read_base_file

    ref = parse(base, is_path=is_path, base_dir=base_dir) if isinstance(base, str) else base
    if ref.scheme == "file" and Path(ref.location).is_file():
        return read_base_file(Path(ref.location), fallback=fallback)
    source = open_source(ref.scheme, settings)
    name = ref.name if isinstance(base, AdapterRef) and ref.scheme == "file" else str(base)
    try:
        return read_base(source, source.resolve(ref), name, fallback=fallback)
    except Offline as error:
        raise Offline(error.message, hint="give --base a folder or a config.json on this disk") from error


def admit(
    text: str | AdapterRef,
    name: str,
    terms: Terms,
    store: "Store",
    settings: Settings,
    *,
    demand: "Demand | None" = None,
) -> Admission:
    """Resolve, fetch and judge one adapter, with each stage's time. Never raises for what the adapter does wrong.

    ``demand`` is what must hold for it whatever its origin gives: a policy, a digest.
    """
    from lora_cli.fetch import ANYTHING, bring

    watch = Stopwatch()
    snapshot = adapter = None
    stage, source_text = "resolve", str(text)
    try:
        ref = parse(text, is_path=is_path) if isinstance(text, str) else text
        source_text = str(ref)
        source = _Watched(open_source(ref.scheme, settings), watch)
        snapshot = bring(ref, source, store, settings, name=name, demand=demand or ANYTHING).snapshot
        watch.lap("fetch")
        stage = "validate"
        local = open_source("file", settings)
        revision = local.resolve(AdapterRef("file", str(snapshot.directory)))
        adapter = read_adapter(local, revision, name)
        stats, why_not = _stats(local, revision, adapter, terms)
        verdict = judge(adapter, terms, stats=stats, stats_reason=why_not)
        watch.lap("validate")
    except LoraCliError as error:
        if stage == "resolve" and "resolve" in watch.stage_ms:
            stage = "fetch"
        watch.lap(stage)
        return Admission(name, source_text, snapshot, adapter, None, watch.stage_ms, stage, error)
    stage = "validate" if verdict.refused() else ""
    return Admission(name, source_text, snapshot, adapter, verdict, watch.stage_ms, stage)
