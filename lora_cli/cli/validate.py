"""``lora-cli validate``: validates adapters where they are, and writes the report in each format."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import typer

from lora_cli.checks import choose
from lora_cli.cli import options
from lora_cli.cli.adapter_selection import (
    apply_policies,
    base_model,
    deployment_of,
    named_engines,
    read_inputs,
    unlocked_warning,
)
from lora_cli.cli.options import ADAPTERS, for_engine, option, result, variable_of
from lora_cli.cli.output import VALIDATE_FORMATS, check_writable, inform, render_parts, to_stderr, write
from lora_cli.cli.progress import count_progress
from lora_cli.errors import MachineError, UsageError
from lora_cli.fetching.file_selection import changed_adapters, is_here
from lora_cli.finding import Severity
from lora_cli.judging.base_model import Bases, check_tp
from lora_cli.judging.judge import Terms, judge_all
from lora_cli.judging.report import Naming, Report, accept_known, unread, validate_report
from lora_cli.judging.result import Result
from lora_cli.text import did_you_mean, safe

if TYPE_CHECKING:
    from lora_cli.documents.baseline import AcceptedFinding

finding = partial(option, default=None, panel="Findings")

EXAMPLES = (
    "lora-cli validate acme/sql --base meta-llama/Llama-3.1-8B-Instruct --engine vllm",
    "lora-cli validate -f set.yaml --format sarif=findings.sarif",
    "lora-cli validate ./adapters --base none --fail-on warning",
)

HUMAN, GITHUB, NO_BASE = "human", "github", "none"
STDOUT = Path("-")
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"

FAIL_ON = {"error": Severity.ERROR, "warning": Severity.WARNING}


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """The parsed options."""

    ctx: typer.Context
    refs: options.Refs = None
    manifest: options.Manifest = None
    changed_files: bool = option(
        "--changed-files", "REFs are changed files: validate the adapters that contain them.", False, ADAPTERS
    )
    base: str = option(
        "--base REF", "Base model, or none (default: the manifest's, else that of each adapter's config).", "", ADAPTERS
    )
    policy: options.PolicyFile = None
    fail_on: str = finding(
        "--fail-on error|warning",
        "Lowest severity that exits with 1.",
        default="error",
        autocompletion=lambda: ["error", "warning"],
    )
    select: list[str] | None = finding(
        "--select",
        "Check only these rules, for example LC3, LC301 or rank-mismatch; may be repeated.",
        **options.A_RULE,
    )
    ignore: list[str] | None = finding("--ignore", "Skip these rules; may be repeated.", **options.A_RULE)
    no_values: bool = finding("--no-values", "Do not read the tensors' values.", default=False)
    engine: list[str] | None = for_engine("--engine", "Validate for this engine; may be repeated.", **options.AN_ENGINE)
    max_lora_rank: int | None = for_engine("--max-lora-rank", "The engine's max_lora_rank: its largest rank.", min=1)
    tp: int = for_engine("--tp", "The engine's tensor-parallel size.", default=1, min=1, max=4096)
    baseline: Path | None = finding("--baseline FILE", "Baseline file of known findings; only new ones count.")
    write_baseline: Path | None = finding(
        "--write-baseline FILE",
        "Write all current findings to this file as the baseline, except of unreadable adapters.",
    )
    strict: bool = finding("--strict", "Also exit with 1 for what could not be checked.", default=False)
    ray: options.Ray = None
    shard: options.Shard = None
    formats: list[str] | None = result(
        "--format FORMAT[=FILE]",
        "human, json, sarif, junit or github; may be repeated, each with its file.",
        show_default="human",
        autocompletion=lambda: [*VALIDATE_FORMATS],
    )


@wraps(ValidateOptions, assigned=(), updated=())  # typer reads the options off its fields
def command(**given: Any) -> None:
    """Check adapters: format, config, tensors and values, against a base model and inference engines."""
    chosen = ValidateOptions(**given)
    fail_on = FAIL_ON.get(chosen.fail_on)
    if fail_on is None:
        hint = did_you_mean(chosen.fail_on, FAIL_ON)
        raise UsageError(f"--fail-on {safe(chosen.fail_on)}: must be error or warning", hint=hint)
    refs = _changed_adapters(chosen) if chosen.changed_files else chosen.refs or ([] if chosen.manifest else ["."])
    outputs = parse_outputs(chosen.formats or (), os.environ)
    known, where = None, ""
    if chosen.baseline is not None or chosen.write_baseline is not None:
        known, where = known_findings(chosen.baseline, chosen.write_baseline)
    whole = read_inputs(chosen.manifest, refs, chosen.base, "validate", may_be_empty=chosen.changed_files)
    items = options.in_shard(whole.items, chosen.shard, lambda item: item.name) if chosen.shard else whole.items
    inputs = replace(whole, items=items)
    settings = apply_policies(chosen.ctx.obj, inputs.manifest, chosen.policy)
    rules = choose(chosen.select or (), chosen.ignore or (), pinned=settings.require_pinned)
    if warning := unlocked_warning(inputs):
        inform(warning, settings)
    engines = named_engines(chosen.engine, inputs.manifest)
    deployment = deployment_of(engines, chosen.max_lora_rank or inputs.max_lora_rank)
    model = None if chosen.base == NO_BASE or not inputs.base else base_model(inputs.base, settings, inputs.locked_base)
    check_tp(model, chosen.tp)
    bases = None if model is not None or chosen.base == NO_BASE else Bases(settings, tp=chosen.tp)
    terms = Terms(
        model, bases, values=not chosen.no_values, rules=rules, engines=engines, deployment=deployment,
    )  # fmt: skip
    # Reports name adapters from the working directory, in its repository, and by the lines of the manifest.
    entries, here = inputs.manifest.adapters if inputs.manifest else (), Path.cwd()
    repository = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    naming, results = Naming(here, {entry.name: entry.at for entry in entries}, repository), list[Result]()
    many = count_progress(settings, len(items), "validated") if len(items) > 1 else nullcontext(lambda failed: None)
    with many as passed:
        requests = inputs.to_validate(settings, digests=True)
        if chosen.ray is None:
            judged = judge_all(requests, terms, settings, contents=False)
        else:
            from lora_cli.fleet.judging import judge_fleet

            judged = judge_fleet(chosen.ray, requests, terms, settings)
        for one in judged:
            results.append(one)
            passed(one.error is not None)
    if where:
        results = [replace(one, findings=accept_known(one, naming, known, where)) for one in results]
    notices = list(baseline_notices(results, known, where, naming)) if where else []
    report = validate_report(
        results, fail_on, strict=chosen.strict, base=model, rules=rules, naming=naming, baseline=where, notices=notices
    )
    write_outputs(report, outputs, quiet=settings.quiet)
    raise typer.Exit(report.summary.exit_code)


def _changed_adapters(chosen: ValidateOptions) -> list[str]:
    """The adapters that the changed files belong to."""
    if chosen.manifest is not None:
        raise UsageError("--changed-files is for REFs", hint="remove -f or --changed-files")
    files = chosen.refs or []
    if files and not any(map(is_here, files)):
        inform("warning: no changed file was found; paths are relative to the working directory", chosen.ctx.obj)
    return changed_adapters(files)


def known_findings(baseline: Path | None, new: Path | None) -> "tuple[Mapping[str, AcceptedFinding] | None, str]":
    """The accepted findings, if they are read, and the name of the file that is read or written; "" without either.

    Raises:
        UsageError: both options are given, or the baseline is invalid.
        NotFound, MachineError: the file does not exist, or cannot be read or written.
    """
    if baseline is not None and new is not None:
        raise UsageError("--baseline and --write-baseline cannot be used together", hint="remove one of them")
    check_writable(new)
    if baseline is None:
        return None, str(new or "")
    from lora_cli.documents.baseline import load_baseline
    from lora_cli.documents.document import read_text

    return load_baseline(read_text(baseline, "baseline"), str(baseline)), str(baseline)


def baseline_notices(
    results: Sequence[Result], known: "Mapping[str, AcceptedFinding] | None", where: str, naming: Naming
) -> Iterator[str]:
    """Notices about entries of the baseline that are over; without one, writes it to ``where``.

    Nothing that is in the file is lost while an adapter cannot be read.

    Raises:
        UsageError: something else is in the file.
        MachineError: it cannot be written.
    """
    from lora_cli.documents.baseline import AcceptedFinding, load_baseline, render_baseline
    from lora_cli.documents.document import read_text

    if known is not None:
        over = (one for one in known.values() if one.is_over)
        yield from (f"{where}: {one.code} ({one.reason}) is no longer accepted after {one.until}" for one in over)
        return
    before: Mapping[str, AcceptedFinding] = {}
    if Path(where).is_file():  # what people wrote in it stays
        before = load_baseline(read_text(Path(where), "baseline"), where)
    is_whole = not any(one.error is not None or unread(one) for one in results)
    entries = {} if is_whole else dict(before)
    for one in results:
        for finding in (finding for finding in one.findings if finding.accepted is not None):
            key, at = naming.fingerprint(one, finding), finding.problem.at
            place = ": ".join(safe(part) for part in (naming.identity(one), at.file, at.field) if part)
            entries[key] = before.get(key) or AcceptedFinding(fingerprint=key, code=finding.code, reason=place)
    write(render_baseline(entries), Path(where))
    for one in results:
        if one.error is not None or unread(one):
            why = f" ({', '.join(unread(one))})" if unread(one) else ""
            yield f"{where}: {naming.identity(one)} is not in the baseline: it could not be read{why}"


@dataclass(frozen=True, slots=True)
class Output:
    """A format and its file, which is replaced, or ``appended`` to."""

    format: str
    file: Path = STDOUT
    appended: bool = False


def parse_outputs(formats: Sequence[str], environ: Mapping[str, str]) -> tuple[Output, ...]:
    """The outputs of ``--format FORMAT[=FILE]``.

    ``github`` also appends to the job summary of GitHub Actions, if there is one.

    Raises:
        UsageError: a format is unknown, or two have the same file.
        MachineError: a file cannot be written.
    """
    found = []
    for word in formats or [HUMAN]:
        if any(part.partition("=")[0] in VALIDATE_FORMATS for part in word.split(",")[1:]):
            hint = f"repeat --format for each; in {variable_of('--format')} separate them with blanks"
            raise UsageError(f"--format {safe(word)} has several formats with commas between them", hint=hint)
        name, has_file, file = word.partition("=")
        if name not in VALIDATE_FORMATS:
            raise UsageError(f"{safe(name)} is not a format", hint=did_you_mean(name, VALIDATE_FORMATS))
        if has_file and not file:
            raise UsageError(f"--format {word} has no file", hint=f"--format {name}=FILE, or --format {name}")
        found.append(Output(name, Path(file) if file else STDOUT))
    summary = environ.get(STEP_SUMMARY, "")
    if summary and any(output.format == GITHUB for output in found):
        found.append(Output(GITHUB, Path(summary), appended=True))
    for output in found:
        same = [other.format for other in found if other.file == output.file]
        if len(same) > 1:
            raise UsageError(
                f"{' and '.join(same)} would be mixed", hint=f"set a file for each: --format {same[-1]}=FILE"
            )
        check_writable(output.file)
    return tuple(found)


def write_outputs(report: Report, outputs: Sequence[Output], *, quiet: bool) -> None:
    """Writes each format. Notices about the run itself go to stderr.

    In the format for people ``quiet`` leaves out everything that is not a problem.

    Raises:
        MachineError: a file cannot be written.
    """
    annotated = any(output.format == GITHUB and output.file == STDOUT for output in outputs)
    for notice in () if quiet or annotated else report.notices:
        to_stderr(safe(f"warning: {notice}"))
    for output in sorted(outputs, key=lambda output: output.file == STDOUT):  # a closed pipe costs no report file
        if output.format == HUMAN:
            from lora_cli.render.terminal_validate import report_parts

            parts = report_parts(report, quiet=quiet)
            write(render_parts(parts, None if output.file == STDOUT else output.file), output.file)
        elif output.appended:
            message = _append_to_summary(report, output.file)
            if not quiet:
                to_stderr(message)
        else:
            function = "to_json" if output.format == "json" else "render_report"
            text = resolve_name(f"lora_cli.render.{output.format}:{function}")(report)
            write(text, output.file, commands=output.format == GITHUB)


def _append_to_summary(report: Report, file: Path) -> str:
    """Appends the report to the job summary, as far as there is room; returns a message about that."""
    from lora_cli.render.markdown import STEP_LIMIT, render_report

    try:
        there = file.stat().st_size if file.exists() else 0
        text = render_report(report, STEP_LIMIT - there)
        with file.open("a", encoding="utf-8") as stream_:
            stream_.write(text)
    except OSError as error:
        raise MachineError(f"{file} cannot be written: {error.strerror}", hint=f"check {STEP_SUMMARY}") from error
    return f"the summary is in {STEP_SUMMARY}" if text else f"{STEP_SUMMARY} is full: no summary was written"
