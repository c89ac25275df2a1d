"""Fetch adapters into the cache and validate them there, before they are loaded."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from lora_cli.adapter.reading import read_adapter
from lora_cli.errors import LoraCliError, Refused
from lora_cli.fetching.pipeline import FetchContext, fetch
from lora_cli.finding import Severity
from lora_cli.judging.validate import error_of, ref_of
from lora_cli.judging.verdict import Checked, Stopwatch, Terms, gather_evidence, judge
from lora_cli.refs.addresses import without_secrets
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.sources.files import files_of

OnStage = Callable[[str], None]
"""Called as each stage begins."""


def ignore_stage(_stage: str) -> None:
    """Do nothing: the default."""


@dataclass(frozen=True, slots=True)
class Admission(Checked):
    """One adapter, fetched into the cache and validated there. ``stage`` is the stage in which ``error`` happened.

    ``stage_ms`` maps the finished stages (resolve, fetch, validate) to milliseconds. ``cached`` says that all of it was
    in the cache before.
    """

    stage: str = ""
    cached: bool = False

    @property
    def refusal(self) -> LoraCliError | None:
        """Why it was not accepted (None if it was): its error, or the first finding and the number of others."""
        errors = [one for one in self.reported if one.severity is Severity.ERROR and one.accepted is None]
        if self.error is not None or not errors:
            return self.error
        first, problem = errors[0], errors[0].problem
        where = f"{problem.at}: " if str(problem.at) else ""
        more = f" (and {len(errors) - 1} more: see lora-cli validate)" if len(errors) > 1 else ""
        return Refused(f"{first.code} {first.name}: {where}{problem.message}{more}", hint=problem.hint)


def fetch_adapter(item: Request, context: FetchContext, *, on_stage: OnStage = ignore_stage) -> Admission:
    """Resolve and fetch one adapter, with the time of each stage; an error is part of the result."""
    watch = Stopwatch()
    admission = Admission(item.name, without_secrets(str(item.source)), stage_ms=watch.stage_ms)

    def resolved() -> None:
        watch.lap("resolve")
        on_stage("fetch")

    on_stage("resolve")
    try:
        item = replace(item, source=ref_of(item.source))
        admission = replace(admission, source=str(item.source), request=item)
        fetched = fetch(item, context, on_resolved=resolved)
    except LoraCliError as error:
        stage = "fetch" if "resolve" in watch.stage_ms else "resolve"
        watch.lap(stage)
        return replace(admission, error=error, stage=stage)
    watch.lap("fetch")
    return replace(admission, snapshot=fetched.snapshot, cached=fetched.cached, signers=fetched.signers)


def validate_fetched(
    fetched: Admission, terms: Terms, settings: Settings, *, on_stage: OnStage = ignore_stage
) -> Admission:
    """Validate an adapter that was fetched; one that could not be fetched is returned unchanged."""
    if fetched.error is not None:
        return fetched
    assert fetched.snapshot is not None
    assert fetched.request is not None
    watch, judged = Stopwatch(), fetched
    on_stage("validate")
    try:
        files = files_of(fetched.snapshot, fetched.request.ref)
        adapter = read_adapter(files, fetched.name, settings.max_header_bytes)
        judged = replace(judged, adapter=adapter)
        evidence = gather_evidence(adapter, files, terms)
        verdict = judge(adapter, terms, evidence)
        judged = replace(judged, verdict=verdict, stage="validate" if verdict.refused() else "")
    except Exception as error:  # noqa: BLE001 - the boundary of one adapter: a bug fails it alone
        judged = replace(judged, error=error_of(error), stage="validate")
    watch.lap("validate")
    return replace(judged, stage_ms={**fetched.stage_ms, **watch.stage_ms})
