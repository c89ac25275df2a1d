"""One adapter × terms → its result, many adapters → theirs: the only place that runs checks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.beside import read_companions
from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.checks import CHECKS, check, choose
from lora_cli.checks.case import Case, Evidence
from lora_cli.checks.check import Check
from lora_cli.checks.config import pattern_invalid
from lora_cli.fetching.batch import FetchContext
from lora_cli.fetching.pipeline import fetch
from lora_cli.finding import NO_BASE, NO_VALUES, Deployment, Finding, Location, Problem
from lora_cli.judging.base_model import Bases
from lora_cli.judging.read import each, open_one
from lora_cli.judging.result import Result, Stopwatch, failing_alone
from lora_cli.peft.match import apply
from lora_cli.peft.targets import LIMIT_S, TOO_SLOW, one_deadline
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.refs.reference import WITH_REVISIONS, ref_of
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.sources.files import Files, files_of

if TYPE_CHECKING:
    from lora_cli.engines import Profile

OnStage = Callable[[str], None]
"""Called as each stage begins."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What adapters are judged by, the same for all of one run.

    ``base`` is the base model of all adapters; without it each is judged against its own by ``bases``, or none.
    Without ``values`` the tensors' values are not read. ``engines`` are the engines that will serve them, started as
    ``deployment`` says; without engines PEFT's behaviour counts, and of the deployment ``max_lora_rank``.
    """

    base: BaseModel | None = None
    bases: Bases | None = None
    values: bool = True
    rules: Sequence[Check] = choose()
    engines: "tuple[Profile, ...]" = ()
    deployment: Deployment = field(default_factory=Deployment)


def judge_one(
    request: Request, terms: Terms, settings: Settings, context: FetchContext | None = None, threads: int = 1
) -> Result:
    """One adapter, judged: a local one in place, a remote one from the cache, into which its files are brought first.

    Without ``context`` a remote adapter that is not cached is read by its header, and nothing is written. Up to
    ``threads`` of its files are read at once. What digest, lock or policies refuse of files that can be read is judged
    all the same: the result has both. Raises no ``LoraCliError``: it is part of the result, also one for a bug.
    """
    result = Result.of(request)
    with failing_alone(result):
        watch = Stopwatch(result.stage_ms)
        files, unread = open_one(result, settings, context, whole=terms.values)
        watch.lap("resolve")
        _judge_files(result, files, terms, settings, watch, 1 if files.on_disk else threads, unread)
    return result


def judge_all(
    requests: Sequence[Request], terms: Terms, settings: Settings, *, contents: bool = True
) -> Iterator[Result]:
    """Many adapters, judged as by ``judge_one``, in the order of the requests; as ``read.each``."""
    return each(
        requests,
        lambda request, context, threads: judge_one(request, terms, settings, context, threads),
        settings,
        contents=contents,
    )


def fetch_one(request: Request, context: FetchContext, on_stage: OnStage = lambda _: None) -> Result:
    """One adapter, resolved and fetched into the cache, with the time of each stage. Raises no ``LoraCliError``."""
    result = Result.of(request)
    watch = Stopwatch(result.stage_ms)

    def resolved() -> None:
        watch.lap("resolve")
        result.stage = "fetch"
        on_stage("fetch")

    on_stage("resolve")
    result.stage = "resolve"
    with failing_alone(result):
        request = result.request = replace(request, source=ref_of(request.source))
        result.source = str(request.source)
        fetched = fetch(request, context, on_resolved=resolved)
        result.snapshot, result.cached, result.signers = fetched.snapshot, fetched.cached, fetched.signers or None
        result.stage = "fetch"
    watch.lap(result.stage)
    return result


def judge_fetched(result: Result, terms: Terms, settings: Settings, on_stage: OnStage = lambda _: None) -> Result:
    """An adapter that was fetched, judged by its snapshot; one that could not be fetched stays as it is."""
    if result.error is not None or result.snapshot is None or result.request is None:
        return result
    watch, result.digest = Stopwatch(result.stage_ms), result.snapshot.digest
    on_stage("validate")
    with failing_alone(result):
        _judge_files(result, files_of(result.snapshot, result.request.ref), terms, settings, Stopwatch({}))
    watch.lap("validate")
    result.stage = "" if result.refusal is None else "validate"
    return result


def _judge_files(
    result: Result, files: Files, terms: Terms, settings: Settings, watch: Stopwatch, threads: int = 1, unread: str = ""
) -> None:
    result.adapter = read_adapter(files, result.name, settings.max_header_bytes, threads=threads)
    result.bytes = sum(file.size or 0 for file in result.adapter.files)
    watch.lap("read")
    evidence = evidence_of(result.adapter, files, terms, threads, unread)
    watch.lap("values")
    judge(result, terms, evidence)
    watch.lap("rules")


def evidence_of(adapter: Adapter, files: Files, terms: Terms, threads: int = 1, unread: str = "") -> Evidence:
    """What rules need beyond config and header, read by up to ``threads`` threads; ``unread`` as of ``open_one``.

    Raises:
        LoraCliError: what the source raises.
    """
    wanted = any("companions" in rule.needs for rule in terms.rules)
    companions = read_companions(files) if wanted else None
    stats, reason = {}, "" if terms.values else NO_VALUES
    if terms.values and not files.on_disk:
        reason = f"the values were not read: {unread}"
    elif terms.values:
        from lora_cli.adapter.values import scan_values

        stats = scan_values(files, adapter)
    commit = files.revision.id if files.ref.scheme in WITH_REVISIONS else ""
    base, base_reason = (terms.base, NO_BASE) if terms.bases is None else terms.bases.of(adapter.config)
    return Evidence(stats, reason, companions, files.ref, commit, base, base_reason)


def judge(result: Result, terms: Terms, evidence: Evidence) -> None:
    """Fill in what the checks say of the result's adapter; nothing is read. All pattern matching has one deadline.

    For an engine all checks are run, selected or not: an outcome must not be ok because a check was not selected.
    """
    adapter = result.adapter
    assert adapter is not None
    with one_deadline() as deadline:
        application = apply(adapter, terms.base or evidence.base)
        base = application.base
        is_other = adapter.config is not None and adapter.config.peft_type != "LORA" and bool(adapter.pairs)
        as_lora = is_other and any(not one.engine.reads_peft_type for one in terms.engines)
        case = Case(adapter, application, evidence, base, terms.deployment, as_lora)
        found, skipped, result.engines = check.judge(case, terms.engines, CHECKS if terms.engines else terms.rules)
    chosen, slow = {one.code for one in terms.rules}, pattern_invalid
    if deadline.left_s <= 0 and all(one.code != slow.code for one in found):
        problem = Problem(f"matching takes longer than {LIMIT_S:g} s", Location(CONFIG), TOO_SLOW)
        found.append(Finding(slow.code, slow.name, slow.severity, problem, None))
    result.findings = tuple(one for one in found if one.code in chosen)
    result.skipped = tuple(one for one in skipped if one.code in chosen)
    result.base = None if base is None else base.name
    if base is not None and case.has_weights:
        result.applied = application.applied
    # What could not be looked at, apart from what the user asked for.
    needed = {need for rule in terms.rules for need in rule.needs} | ({"base", "values"} if terms.engines else set())
    missing = [case.why_missing(need) for need in ("config", "weights", "base", "values") if need in needed]
    result.unchecked = tuple(dict.fromkeys(reason for reason in missing if reason not in {"", NO_BASE, NO_VALUES}))
