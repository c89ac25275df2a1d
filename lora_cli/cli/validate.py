"""``lora-cli validate``: validate adapters where they are, write each format, and exit with a code that CI can use."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import typer

from lora_cli.cli import completion, engine_options, options
from lora_cli.cli.adapter_selection import base_model, lineup, reaching, warn_of_unlocked, with_base
from lora_cli.cli.options import ADAPTERS, for_engine, option, result
from lora_cli.cli.output import drawn, to_stderr, writable, write
from lora_cli.cli.progress import shown_count
from lora_cli.core.did_you_mean import did_you_mean
from lora_cli.core.finding import Severity
from lora_cli.core.shard import in_shard
from lora_cli.core.text import safe
from lora_cli.errors import MachineError, UsageError
from lora_cli.rules import choose
from lora_cli.settings import Settings
from lora_cli.validation import Checked, Terms, check_all
from lora_cli.validation.report import Naming, Report, validate_report

if TYPE_CHECKING:
    from lora_cli.documents.baseline import Baseline
    from lora_cli.rules.rule import Rule

finding = partial(option, default=None, panel="Findings")

EXAMPLES = (
    "lora-cli validate acme/sql --base meta-llama/Llama-3.1-8B-Instruct --engine vllm",
    "lora-cli validate -f set.yaml --format sarif=findings.sarif",
    "lora-cli validate ./adapter --no-base --fail-on warning",
)

HUMAN, CONCISE, GITHUB, MARKDOWN = "human", "concise", "github", "markdown"
RENDERERS = {
    "json": "lora_cli.render.json:encoded",
    "sarif": "lora_cli.render.sarif:render_report",
    "junit": "lora_cli.render.junit:render_report",
    GITHUB: "lora_cli.render.github:render_report",
    MARKDOWN: "lora_cli.render.markdown:render_report",
    "gitlab": "lora_cli.render.gitlab:render_report",
}
"""What writes each machine format: its module is imported when it is asked for, and not before."""

FORMATS = (HUMAN, CONCISE, *RENDERERS)

STDOUT = Path("-")
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"

FAIL_ON = {"error": Severity.ERROR, "warning": Severity.WARNING}


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: options.Base = "",
    no_base: bool = option(
        "--no-base", "Validate without a base model; rules that need one are skipped.", False, ADAPTERS
    ),
    policy: options.PolicyFile = None,
    fail_on: str = finding(
        "--fail-on error|warning",
        "Lowest severity that exits with 1.",
        default="error",
        autocompletion=completion.words("error", "warning"),
    ),
    select: list[str] | None = finding(
        "--select",
        "Check only these rules, for example LC3, LC301 or rank-mismatch; may be repeated.",
        **completion.RULE,
    ),
    ignore: list[str] | None = finding("--ignore", "Skip these rules; may be repeated.", **completion.RULE),
    values: bool = finding("--values/--no-values", "Read the tensors' values.", default=True),
    engine: list[str] | None = for_engine(
        "--engine", "Validate for this engine; may be repeated.", **completion.ENGINE
    ),
    max_lora_rank: int | None = for_engine("--max-lora-rank", "The engine's max_lora_rank: its largest rank.", min=1),
    tp: engine_options.Tp = 1,
    lora_target_modules: list[str] | None = for_engine(
        "--lora-target-modules NAME", "The only modules that the engine applies LoRA to; may be repeated."
    ),
    served_model_name: str = for_engine(
        "--served-model-name NAME", "The engine's name for the base model.", default=""
    ),
    max_loras: int | None = for_engine("--max-loras", "The engine's max_loras: adapters in one batch.", min=1),
    baseline: Path | None = finding("--baseline FILE", "Baseline file of known findings; only new ones count."),
    write_baseline: Path | None = finding(
        "--write-baseline FILE",
        "Write all current findings to this file as the baseline, except of unreadable adapters.",
    ),
    ray: options.Ray = None,
    shard: options.Shard = None,
    statistics: bool = result(
        "--statistics", "Print the number of findings per rule instead of the findings.", default=False
    ),
    formats: list[str] | None = result(
        "--format FORMAT[=FILE]",
        "human, concise, json, sarif, junit, github, gitlab or markdown; may be repeated, each with its file.",
        show_default="human",
        autocompletion=completion.words(*FORMATS),
    ),
    output: options.OutputFile = None,
) -> None:
    """Check adapters: format, config, tensors and values, against a base model and inference engines."""
    if fail_on not in FAIL_ON:
        raise UsageError(f"--fail-on is error or warning, not {safe(fail_on)}")
    if base and no_base:
        raise UsageError("--base and --no-base cannot be used together", hint="remove one of them")
    chosen, wanted = choose(select or (), ignore or ()), outputs(formats or (), output, os.environ)
    known, where = known_findings(baseline, write_baseline)
    whole = lineup(manifest, refs or [], base, "validate", checkpoint)
    asked = replace(whole, items=tuple(in_shard(whole.items, shard, lambda item: item.name)))
    settings = reaching(ctx.obj, asked.manifest, policy)
    warn_of_unlocked(asked, settings)
    max_lora_rank = max_lora_rank or (asked.engine.max_lora_rank if asked.engine else None)
    engines = engine_options.named_engines(engine, asked.manifest)
    deployment = engine_options.deployment_of(
        engines, whole, tp=tp, max_lora_rank=max_lora_rank, lora_target_modules=lora_target_modules or (),
        served_model_name=served_model_name, max_loras=max_loras,
    )  # fmt: skip
    model = None if no_base else base_model(with_base(asked, "validate", settings).base, settings)
    terms = Terms(
        model, values=values, max_lora_rank=max_lora_rank, rules=chosen, engines=engines, deployment=deployment
    )
    items = asked.to_judge(settings, digests=True)
    if ray is None:
        judged = check_all(items, terms, settings, contents=False)
    else:
        from lora_cli.fleet.judging import check_fleet

        judged = check_fleet(ray, items, terms, settings)
    entries = asked.manifest.adapters if asked.manifest else ()
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    naming = Naming(here, {entry.name: entry.at for entry in entries}, root)
    checked = []
    with shown_count(settings, len(asked.items), "validated") as passed:
        for one in accepting(judged, known, where, naming):
            checked.append(one)
            passed(one.error is not None)
    notices = settled(checked, known, write_baseline, naming, chosen, settings)
    report = validate_report(
        checked, FAIL_ON[fail_on], base=model, rules=chosen, naming=naming, baseline=where, notices=notices
    )
    tell(report, wanted, quiet=settings.quiet, statistics=statistics)
    raise typer.Exit(report.summary.exit_code)


def known_findings(baseline: Path | None, new: Path | None) -> "tuple[Baseline | None, str]":
    """The baseline that was read, and the file of known findings: that one, the one to be written, or "" for none.

    Raises:
        UsageError: both, or a baseline that is wrong.
        NotFound, MachineError: it is not there, or cannot be read or written.
    """
    if baseline is not None and new is not None:
        raise UsageError("--baseline and --write-baseline cannot be used together", hint="remove one of them")
    writable(new)
    if baseline is None:
        return None, str(new or "")
    from lora_cli.documents.baseline import load_baseline
    from lora_cli.reading.manifest import read_text

    return load_baseline(read_text(baseline, "baseline"), str(baseline)), str(baseline)


def accepting(judged: Iterable[Checked], known: "Baseline | None", where: str, naming: Naming) -> Iterator[Checked]:
    """Each adapter with its known findings accepted; ``naming`` says what it is called."""
    if not where:
        yield from judged
        return
    from lora_cli.validation import baseline

    for one in judged:
        yield baseline.apply_baseline(one, naming.identity(one), known, where)


def settled(
    checked: Sequence[Checked],
    known: "Baseline | None",
    new: Path | None,
    naming: Naming,
    rules: "Sequence[Rule]",
    settings: Settings,
) -> list[str]:
    """A sentence for each entry of baseline and policies that no longer applies; writes a new baseline.

    Raises:
        MachineError: it cannot be.
    """
    if not settings.suppressions and known is None and new is None:
        return []
    from lora_cli.validation import baseline

    named = [(naming.identity(one), one) for one in checked]
    notices = list(baseline.unused_suppressions(named, settings.suppressions, rules))
    if known is not None:
        notices += baseline.stale_entries(named, known, [rule.code for rule in rules])
    if new is not None:
        from lora_cli.documents.baseline import render_baseline

        found = ((name, finding, finding.accepted) for name, one in named for finding in one.findings)
        entries = (baseline.entry_of(name, one) for name, one, by in found if by is not None and by.by == "baseline")
        write(render_baseline(entries), new)
        notices += baseline.unread_notices(named, str(new))
    return notices


@dataclass(frozen=True, slots=True)
class Output:
    """One format and where it goes; ``appended`` to what is there already, or instead of it."""

    format: str
    file: Path = STDOUT
    appended: bool = False


def outputs(formats: Sequence[str], file: Path | None, environ: Mapping[str, str]) -> tuple[Output, ...]:
    """What ``--format FORMAT[=FILE]`` and ``-o FILE`` ask for together.

    Markdown that has no file of its own is appended to the job's summary, where GitHub Actions names one.

    Raises:
        UsageError: no such format; two for one place; ``-o`` that could mean several.
        MachineError: a file that cannot be written.
    """
    asked = [_named(word) for word in formats or [HUMAN]]
    bare = [name for name, given in asked if given is None]
    if file is not None and len(bare) != 1:
        hint = "set a file for each: --format sarif=FILE" if bare else "remove -o"
        raise UsageError("-o needs exactly one format without a file", hint=hint)
    summary = environ.get(STEP_SUMMARY, "")
    found = tuple(
        Output(name, Path(summary), appended=True)
        if name == MARKDOWN and summary and (given or file) is None
        else Output(name, given or file or STDOUT)
        for name, given in asked
    )
    for output in found:
        same = [other.format for other in found if other.file == output.file]
        if len(same) > 1:
            hint = f"set a file for each: --format {same[-1]}=FILE"
            if output.file == STDOUT and MARKDOWN in same:
                hint += f"; markdown only goes to {STEP_SUMMARY} automatically if that is set"
            raise UsageError(f"{' and '.join(same)} would be mixed", hint=hint)
        writable(output.file)
    return found


def _named(word: str) -> tuple[str, Path | None]:
    name, has_file, file = word.partition("=")
    if name not in FORMATS:
        raise UsageError(f"{safe(name)} is not a format", hint=did_you_mean(name, FORMATS))
    if has_file and not file:
        raise UsageError(f"--format {word} has no file", hint=f"--format {name}=FILE, or --format {name}")
    return name, Path(file) if file else None


def tell(report: Report, asked: Sequence[Output], *, quiet: bool = False, statistics: bool = False) -> None:
    """Writes each format. Notices about the run itself go to stderr.

    ``quiet`` leaves out what is not wrong of what people read, and ``statistics`` all but how often each rule found
    something.

    Raises:
        MachineError: a file cannot be written.
    """
    annotated = any(output.format == GITHUB and output.file == STDOUT for output in asked)
    for notice in () if quiet or annotated else report.notices:
        to_stderr(safe(f"warning: {notice}"))
    for output in asked:
        if output.format == HUMAN:
            from lora_cli.render.terminal_validate import report_parts, statistics_parts

            parts = statistics_parts(report) if statistics else report_parts(report, quiet=quiet)
            write(drawn(parts, None if output.file == STDOUT else output.file), output.file)
        elif output.format == CONCISE:
            from lora_cli.render import concise

            write(concise.render_report(report, quiet=quiet), output.file)
        elif output.appended:
            said = _append(report, output.file)
            if not quiet:
                to_stderr(said)
        else:
            text = resolve_name(RENDERERS[output.format])(report)
            write(text, output.file, commands=output.format == GITHUB)


def _append(report: Report, file: Path) -> str:
    from lora_cli.render.markdown import STEP_LIMIT, render_report

    try:
        there = file.stat().st_size if file.exists() else 0
        text = render_report(report, STEP_LIMIT - there)
        with file.open("a", encoding="utf-8") as stream_:
            stream_.write(text)
    except OSError as error:
        raise MachineError(f"{file} cannot be written: {error.strerror}", hint=f"check {STEP_SUMMARY}") from error
    return f"the summary is in {STEP_SUMMARY}" if text else f"{STEP_SUMMARY} is full: no summary was written"
