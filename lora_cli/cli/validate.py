"""``lora-cli validate``: validates adapters where they are, and writes the report in each format."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

import typer

from lora_cli.checks import choose
from lora_cli.cli import options
from lora_cli.cli.options import Output, adapters, engines, in_shard, option, outputs, parse_outputs
from lora_cli.cli.output import VALIDATE_FORMATS, check_writable, inform, render_parts, to_stderr, write
from lora_cli.cli.progress import shown
from lora_cli.errors import UsageError
from lora_cli.fetching.file_selection import changed_adapters, is_here
from lora_cli.finding import Severity
from lora_cli.inputs import apply_policies, read_inputs, terms_of, unlocked_warning
from lora_cli.judging.judge import judge_all
from lora_cli.judging.report import Naming, Report, accept_known, unread
from lora_cli.judging.result import Result
from lora_cli.reports.validate import human
from lora_cli.settings import Settings
from lora_cli.store.disk import on_disk
from lora_cli.text import safe

if TYPE_CHECKING:
    from lora_cli.documents.baseline import AcceptedFinding

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
    strict: bool = finding("--strict", "Also exit with 1 for what could not be checked."),
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
        if refs and not any(map(is_here, refs)):
            inform("warning: no changed file was found; paths are relative to the working directory", ctx.obj)
        words = changed_adapters(refs or [])
    written = parse_outputs(formats, VALIDATE_FORMATS)
    if baseline is not None and write_baseline is not None:
        raise UsageError("--baseline and --write-baseline cannot be used together", hint="remove one of them")
    check_writable(write_baseline)
    where, known = str(baseline or write_baseline or ""), _accepted(baseline)
    whole = read_inputs(manifest, words, base, "validate", may_be_empty=changed_files)
    settings = apply_policies(ctx.obj, whole.manifest, policy)
    if warning := unlocked_warning(whole):
        inform(warning, settings)
    rules = choose(select or (), ignore or (), pinned=settings.require_pinned)
    terms = terms_of(
        whole, settings, engines=engine, max_lora_rank=max_lora_rank, tp=tp, values=not no_values, rules=rules
    )
    inputs = replace(whole, items=in_shard(whole.items, shard, lambda item: item.name))
    # Reports name adapters from the working directory, in its repository, and by the lines of the manifest.
    entries, here = whole.manifest.adapters if whole.manifest else (), Path.cwd()
    repository = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    naming, results = Naming(here, {entry.name: entry.at for entry in entries}, repository), list[Result]()
    with shown(settings, len(inputs.items), "validated") as progress:
        requests = inputs.to_validate(settings, digests=True)
        if ray is None:
            judged = judge_all(requests, terms, settings, contents=False)
        else:
            from lora_cli.fleet import judge_fleet

            judged = judge_fleet(ray, requests, terms, settings)
        for one in judged:
            results.append(one)
            progress.adapter_ended(one.name, failed=one.error is not None)
    notices: Sequence[str] = ()
    if where:
        results = [
            replace(one, findings=accept_known(one, naming, None if write_baseline else known, where))
            for one in results
        ]
        over = [one for one in known.values() if one.is_over]
        notices = [f"{where}: {one.code} ({one.reason}) is no longer accepted after {one.until}" for one in over]
    if write_baseline is not None:
        notices = list(_written_baseline(write_baseline, results, naming))
    report = Report(
        base=terms.base, fail_on=Severity[fail_on.upper()], adapters=tuple(results), notices=tuple(notices),
        rules=rules, naming=naming, baseline=where, strict=strict,
    )  # fmt: skip
    _write_outputs(report, written, settings)
    raise typer.Exit(report.summary.exit_code)


def _accepted(baseline: Path | None) -> "Mapping[str, AcceptedFinding]":
    """The accepted findings of a baseline; none without one.

    Raises:
        UsageError: it is not a baseline.
        NotFound, MachineError: it does not exist, or cannot be read.
    """
    if baseline is None:
        return {}
    from lora_cli.documents.baseline import load_baseline
    from lora_cli.documents.document import read_text

    return load_baseline(read_text(baseline, "baseline"), str(baseline))


def _written_baseline(file: Path, results: Sequence[Result], naming: Naming) -> Iterator[str]:
    """Writes what ``results`` found as the baseline; notices about adapters that could not be read.

    What people wrote in the file stays, and while an adapter cannot be read nothing that is in it is lost.

    Raises:
        UsageError: something else is in the file.
        MachineError: it cannot be written.
    """
    from lora_cli.documents.baseline import AcceptedFinding, render_baseline

    before = _accepted(file if file.is_file() else None)
    lacking = {naming.identity(one): unread(one) for one in results if one.error is not None or unread(one)}
    entries = dict(before) if lacking else {}
    for one in results:
        for found in (found for found in one.findings if found.accepted is not None):
            key, at = naming.fingerprint(one, found), found.problem.at
            place = ": ".join(safe(part) for part in (naming.identity(one), at.file, at.field) if part)
            entries[key] = before.get(key) or AcceptedFinding(fingerprint=key, code=found.code, reason=place)
    write(render_baseline(entries), file)
    for name, codes in lacking.items():
        why = f" ({', '.join(codes)})" if codes else ""
        yield f"{file}: {name} is not in the baseline: it could not be read{why}"


def _write_outputs(report: Report, outputs: Sequence[Output], settings: Settings) -> None:
    """Writes each format; ``github`` also to the job summary of GitHub Actions. Notices about the run go to stderr.

    In the format for people ``quiet`` leaves out everything that is not a problem.

    Raises:
        MachineError: a file cannot be written.
    """
    for notice in () if settings.quiet or Output("github") in outputs else report.notices:
        to_stderr(safe(f"warning: {notice}"))
    summary = os.environ.get(STEP_SUMMARY, "")
    if summary and any(output.format == "github" for output in outputs):
        from lora_cli.reports.github import STEP_LIMIT, job_summary

        file = Path(summary)
        with on_disk("writing", file, STEP_SUMMARY):
            text = job_summary(report, STEP_LIMIT - (file.stat().st_size if file.exists() else 0))
            with file.open("a", encoding="utf-8") as stream:
                stream.write(text)
        done = f"the summary is in {STEP_SUMMARY}" if text else f"{STEP_SUMMARY} is full: no summary was written"
        inform(done, settings)
    for output in outputs:
        if output.format == "human":
            parts = human(report, quiet=settings.quiet, verbose=settings.verbose)
            write(render_parts(parts, output.file), output.file)
        else:
            function = "to_json" if output.format == "json" else "render_report"
            text = resolve_name(f"lora_cli.reports.{output.format}:{function}")(report)
            write(text, output.file, commands=output.format == "github")
