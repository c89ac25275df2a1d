"""``lora-cli validate``: validates adapters where they are, and writes the report in each format."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

import typer

from lora_cli.checks import choose
from lora_cli.cli import options
from lora_cli.cli.options import adapters, engines, in_shard, option, outputs, parse_outputs
from lora_cli.cli.output import STDOUT, VALIDATE_FORMATS, check_writable, inform, render_parts, to_stderr, write
from lora_cli.cli.progress import shown
from lora_cli.errors import Refused, UsageError
from lora_cli.fetching.file_selection import changed_adapters
from lora_cli.finding import Deployment, Severity
from lora_cli.inputs import apply_policies, read_inputs, terms_of, unlocked_warning
from lora_cli.json_schema import to_json
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import each
from lora_cli.judging.result import Naming, Report, Result, accept_known, unread
from lora_cli.refs.request import LockFlags
from lora_cli.reports.validate import human
from lora_cli.settings import Settings
from lora_cli.store.disk import on_disk
from lora_cli.text import safe

if TYPE_CHECKING:
    from lora_cli.documents.baseline import AcceptedFinding
    from lora_cli.documents.manifest import AdapterSet

finding = partial(option, panel="Findings")

EXAMPLES = (
    "lora-cli validate acme/sql --base acme/llama-3-8b --engine vllm",
    "lora-cli validate -f set.yaml --format sarif=findings.sarif",
    "lora-cli validate ./adapters --base none --fail-on warning",
)

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    changed_files: bool = adapters("--changed-files", "REFs are changed files: validate the adapters that have them."),
    base: options.AnyBase = "",
    policy: options.PolicyFile = None,
    fail_on: Literal["error", "warning"] = finding("--fail-on", "Lowest severity that exits with 1.", "error"),
    select: list[str] | None = finding("--select RULE", "Check only LC3, LC301 or rank-mismatch; may be repeated."),
    ignore: list[str] | None = finding("--ignore RULE", "Skip these rules; may be repeated."),
    no_values: bool = finding("--no-values", "Do not read the tensors' values."),
    engine: list[str] | None = engines("--engine NAME[@VERSION]", "Validate for this engine; may be repeated."),
    max_lora_rank: int | None = engines("--max-lora-rank", "The engine's max_lora_rank: its largest rank.", min=1),
    tp: int = engines("--tp", "The engine's tensor-parallel size.", 1, min=1),
    baseline: Path | None = finding("--baseline FILE", "Baseline file of known findings; only new ones count."),
    write_baseline: Path | None = finding("--write-baseline FILE", "Write all current findings to this baseline file."),
    strict: bool = finding("--strict", "Also fail if something was not checked, or the lock does not fit."),
    ray: options.Ray = None,
    shard: options.Shard = None,
    formats: list[str] | None = outputs(
        "--format FORMAT[=FILE]",
        "human (default), json, sarif, junit, github or html; may be repeated, each with its file.",
    ),
) -> None:
    """Check adapters: format, config, tensors and values, against a base model and inference engines."""
    words = refs or ([] if manifest else ["."])
    if changed_files:
        if manifest is not None:
            raise UsageError("--changed-files is for REFs", hint="remove -f or --changed-files")
        words = changed_adapters(refs or [])
        if refs and not words and not any(map(os.path.lexists, refs)):
            inform("warning: no changed file is here (any more); paths are relative to the working directory", ctx.obj)
    written = parse_outputs(formats, VALIDATE_FORMATS)
    if baseline is not None and write_baseline is not None:
        raise UsageError("--baseline and --write-baseline cannot be used together", hint="remove one of them")
    check_writable(write_baseline)
    file, known = baseline or write_baseline, dict[str, "AcceptedFinding"]()
    if file is not None and (baseline is not None or file.is_file()):
        from lora_cli.documents.baseline import load_baseline
        from lora_cli.documents.document import read_text

        known.update(load_baseline(read_text(file, "baseline"), str(file)))
    whole = read_inputs(manifest, words, base, "validate", may_be_empty=changed_files)
    settings = apply_policies(ctx.obj, whole.manifest, policy)
    if warning := unlocked_warning(whole):
        inform(warning, settings)
    rules = choose(select or (), ignore or (), pinned=settings.require_pinned)
    deployment = Deployment(max_lora_rank, tp=tp)
    terms = terms_of(whole, settings, engines=engine or (), deployment=deployment, values=not no_values, rules=rules)
    terms = replace(terms, contents=False)
    inputs = replace(whole, items=in_shard(whole.items, shard, lambda item: item.name))
    # Reports name adapters from the working directory, in its repository, and by the lines of the manifest.
    entries, here = whole.manifest.adapters if whole.manifest else (), Path.cwd()
    repository = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    naming, results = Naming(here, {entry.name: entry.at for entry in entries}, repository), list[Result]()
    with shown(settings, len(inputs.items), "validated") if len(inputs.items) > 1 else nullcontext() as progress:
        requests = inputs.to_validate(settings, digests=True)
        if ray is None:
            judged = each(requests, judge_one, terms)
        else:
            from lora_cli.fleet import judge_fleet

            judged = judge_fleet(ray, requests, terms)
        for one in judged:
            results.append(one)
            if progress is not None:
                progress.adapter_ended(one.name, failed=one.error is not None)
    results, notices = _compared(results, naming, file, known, writing=not baseline) if file else (results, [])
    notices += [f"{one.engine.name}@{one.requested}: {one.note}" for one in terms.engines if one.note]
    unfit = _lock_refused(whole.manifest) if strict and whole.has_lock and whole.manifest else None
    report = Report(
        base=terms.base, fail_on=Severity[fail_on.upper()], adapters=tuple(results), notices=tuple(notices),
        naming=naming, baseline=str(file or ""), strict=strict, error=unfit,
    )  # fmt: skip
    _write_outputs(report, written, settings)
    if unfit is not None and report.exit_code == unfit.exit_code:
        raise unfit
    raise typer.Exit(report.exit_code)


def _lock_refused(adapter_set: "AdapterSet") -> Refused | None:
    """Why ``fetch --locked`` would refuse the lock of a manifest."""
    from lora_cli.fetching.lock_update import open_lock

    try:
        if lock := open_lock(Path(adapter_set.file), adapter_set, LockFlags()):
            lock.check_agrees()
    except Refused as error:
        return error
    return None


def _compared(
    results: Sequence[Result], naming: Naming, file: Path, known: "Mapping[str, AcceptedFinding]", *, writing: bool
) -> tuple[list[Result], list[str]]:
    """The results with what the baseline ``file`` accepts of them, and notices; ``writing`` it, it gets all they found.

    What people wrote in it stays, and while an adapter cannot be read nothing that is in it is lost.

    Raises:
        MachineError: it cannot be written.
    """
    accepting = None if writing else known
    results = [replace(one, findings=accept_known(one, naming, accepting, str(file))) for one in results]
    if not writing:
        over = (one for one in known.values() if one.is_over)
        return results, [f"{file}: {one.code} ({one.reason}) is no longer accepted after {one.until}" for one in over]
    from lora_cli.documents.baseline import AcceptedFinding, render_baseline

    lacking = {naming.identity(one): unread(one) for one in results if one.error is not None or unread(one)}
    entries = dict(known) if lacking else {}
    for one in results:
        for found in (found for found in one.findings if found.accepted is not None):
            key, at = naming.fingerprint(one, found), found.problem.at
            place = ": ".join(safe(part) for part in (naming.identity(one), at.file, at.field) if part)
            entries[key] = known.get(key) or AcceptedFinding(fingerprint=key, code=found.code, reason=place)
    write(render_baseline(entries), file)
    why = {name: f" ({', '.join(codes)})" if codes else "" for name, codes in lacking.items()}
    return results, [f"{file}: {name} is not in the baseline: it could not be read{why[name]}" for name in lacking]


def _write_outputs(report: Report, written: Mapping[Path, str], settings: Settings) -> None:
    """Writes each format; ``github`` also to the job summary of GitHub Actions. Notices about the run go to stderr.

    In the format for people ``quiet`` leaves out everything that is not a problem.

    Raises:
        MachineError: a file cannot be written.
    """
    for notice in () if settings.quiet or written.get(STDOUT) == "github" else report.notices:
        to_stderr(safe(f"warning: {notice}"))
    summary = os.environ.get(STEP_SUMMARY, "")
    if summary and "github" in written.values():
        from lora_cli.reports.github import STEP_LIMIT, job_summary

        file = Path(summary)
        with on_disk("writing", file, STEP_SUMMARY):
            text = job_summary(report, STEP_LIMIT - (file.stat().st_size if file.exists() else 0))
            with file.open("a", encoding="utf-8") as stream:
                stream.write(text)
        done = f"the summary is in {STEP_SUMMARY}" if text else f"{STEP_SUMMARY} is full: no summary was written"
        inform(done, settings)
    for file, name in written.items():
        if name == "human":
            text = render_parts(human(report, quiet=settings.quiet, verbose=settings.verbose), file)
        else:
            text = to_json(report) if name == "json" else resolve_name(f"lora_cli.reports.{name}:render_report")(report)
        write(text, file, commands=name == "github")
