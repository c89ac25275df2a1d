"""One adapter × terms → its result: the only place that runs checks."""

import threading
from dataclasses import replace

from lora_cli.adapter.reading import read_adapter, read_companions
from lora_cli.checks import CHECKS, check, choose
from lora_cli.checks.case import Case, Evidence
from lora_cli.checks.config import pattern_invalid
from lora_cli.errors import AccessDenied, LoraCliError, Unreachable
from lora_cli.fetching import gate
from lora_cli.fetching.batch import FetchContext
from lora_cli.fetching.pipeline import fetch
from lora_cli.finding import NO_BASE, NO_VALUES, WAIVED, Finding, Location, Problem
from lora_cli.judging.read import Terms, check_tp, open_base, open_one, unreadable
from lora_cli.judging.result import Result, stage
from lora_cli.peft.match import apply
from lora_cli.peft.targets import LIMIT_S, TOO_SLOW, one_deadline
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.refs.reference import WITH_REVISIONS, ref_of
from lora_cli.refs.request import Request
from lora_cli.sources.files import Files, files_of

_OPENING = threading.Lock()
"""Held while a base is opened: adapters of one base wait for it and do not ask for it again."""


def judge_one(request: Request, terms: Terms) -> Result:
    """One adapter, judged: a local one in place, a remote one from the cache, into which its files are brought first.

    What digest, lock or policies refuse of files that can be read is judged all the same: the result has both. Raises
    no ``LoraCliError``: it is part of the result, also one for a bug.
    """
    result = Result.of(request)
    with stage(result, "validate"):
        files, unread = open_one(result, terms, whole=terms.values)
        judge(result, files, terms, unread)
    return result


def fetch_one(request: Request, context: FetchContext) -> Result:
    """One adapter, fetched into the cache, with the time that took. Raises no ``LoraCliError``."""
    result = Result.of(request)
    with stage(result, "fetch"):
        request = result.request = replace(request, source=ref_of(request.source))
        result.source = str(request.source)
        fetched = fetch(request, context)
        result.snapshot, result.cached, result.signers = fetched.snapshot, fetched.cached, fetched.signers or None
    return result


def judge_fetched(result: Result, terms: Terms) -> Result:
    """An adapter that was fetched, judged by its snapshot; one that could not be fetched stays as it is."""
    if result.error is not None or result.snapshot is None or result.request is None:
        return result
    result.digest = result.snapshot.digest
    with stage(result, "validate"):
        judge(result, files_of(result.snapshot, result.request.ref), terms)
    result.stage = result.stage if result.refusal is not None else ""
    return result


def judge(result: Result, files: Files, terms: Terms, unread: str = "") -> None:
    """Fill in the adapter that is in ``files``, and what the checks say of it; ``unread`` as of ``open_one``.

    For an engine all checks are run, selected or not: an outcome must not be ok because a check was not selected. All
    pattern matching has one deadline.

    Raises:
        UsageError: the tensor-parallel size does not divide the attention heads of the base.
        LoraCliError: what the source raises.
    """
    rules = choose(pinned=terms.settings.require_pinned) if terms.rules is None else terms.rules
    adapter = read_adapter(files, result.name)
    result.adapter = adapter if terms.contents else None
    result.bytes = sum(file.size or 0 for file in adapter.files)
    companions = read_companions(files) if any("companions" in rule.needs for rule in rules) else None
    stats, reason = {}, NO_VALUES
    if terms.values and files.on_disk:
        from lora_cli.adapter.values import scan_values

        stats, reason = scan_values(files, adapter), ""
    elif terms.values:
        reason = f"the values were not read: {unread}"
    base, base_reason = terms.base, NO_BASE
    if terms.way:
        name = (adapter.config.base_model_name_or_path if adapter.config is not None else None) or ""
        why = unreadable(name) if name else f"no base is set in {CONFIG}"
        with _OPENING:
            if name not in terms.own_bases:
                own, code, enough = None, 1, ""
                try:
                    if not why:
                        gate.refuse(Request("", ref_of(name)), terms.settings)
                        own = open_base(name, terms.settings)
                except LoraCliError as error:
                    why, code = error.message, error.exit_code if isinstance(error, Unreachable) else 1
                    enough = ": a folder with its config.json is enough" if isinstance(error, AccessDenied) else ""
                terms.own_bases[name] = own, f"base unchecked: {why}; {terms.way}{enough}", code
        base, base_reason, result.strict_code = terms.own_bases[name]
        check_tp(base, terms.deployment.tp)
    commit = files.revision.id if files.ref.scheme in WITH_REVISIONS else ""
    evidence = Evidence(stats, reason, companions, files.ref, commit, base_reason)

    with one_deadline() as deadline:
        application = apply(adapter, base)
        is_other = adapter.config is not None and adapter.config.peft_type != "LORA" and bool(adapter.pairs)
        as_lora = is_other and any(not one.engine.reads_peft_type for one in terms.engines)
        case = Case(adapter, application, evidence, application.base, terms.deployment, as_lora)
        found, skipped, result.engines = check.judge(case, terms.engines, CHECKS if terms.engines else rules)
    chosen, slow = {one.code for one in rules}, pattern_invalid
    if deadline.left_s <= 0 and all(one.code != slow.code for one in found):
        problem = Problem(f"matching takes longer than {LIMIT_S:g} s", Location(CONFIG), TOO_SLOW)
        found.append(Finding(slow.code, slow.name, slow.severity, problem, None))
    selected = (one for one in found if one.code in chosen)
    result.findings = tuple(sorted(selected, key=lambda one: -one.severity))
    result.skipped = tuple(one for one in skipped if one.code in chosen)
    if base is not None:
        result.base, result.applied = base.name, application.applied if case.has_weights else None
    # What could not be looked at, apart from what the user asked for.
    needed = {need for rule in rules for need in rule.needs} | ({"base", "values"} if terms.engines else set())
    missing = [case.why_missing(need) for need in ("config", "weights", "base", "values") if need in needed]
    result.unchecked = tuple(dict.fromkeys(reason for reason in missing if reason not in {"", *WAIVED}))
