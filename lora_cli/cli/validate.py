"""``lora-cli validate``: judge adapters where they lie, and end with what CI branches on."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lora_cli.cli import completion, engine_options, options
from lora_cli.cli.lineup import base_model, lineup, reaching, with_base
from lora_cli.cli.options import ADAPTERS, for_engine, option, result
from lora_cli.cli.output import writable, write
from lora_cli.cli.progress import shown_count
from lora_cli.cli.reporting import FORMATS, outputs, tell
from lora_cli.core.finding import Severity
from lora_cli.core.shard import in_shard
from lora_cli.core.text import safe
from lora_cli.errors import UsageError
from lora_cli.rules import choose
from lora_cli.settings import Settings
from lora_cli.validation import Checked, Terms, check_all
from lora_cli.validation.report import Naming, validate_report

if TYPE_CHECKING:
    from lora_cli.documents.baseline import Baseline
    from lora_cli.rules.rule import Rule

finding = partial(option, default=None, panel="Findings")

EXAMPLES = (
    "lora-cli validate acme/sql --base meta-llama/Llama-3.1-8B-Instruct --engine vllm",
    "lora-cli validate -f set.yaml --format sarif=findings.sarif",
    "lora-cli validate ./adapter --no-base --fail-on warning",
)

FAIL_ON = {"error": Severity.ERROR, "warning": Severity.WARNING}


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: options.Base = "",
    no_base: bool = option(
        "--no-base", "Judge without a base model: rules that need one are skipped.", False, ADAPTERS
    ),
    policy: options.PolicyFile = None,
    fail_on: str = finding(
        "--fail-on error|warning",
        "The lowest severity that ends with exit code 1.",
        default="error",
        autocompletion=completion.words("error", "warning"),
    ),
    select: list[str] | None = finding(
        "--select", "Only these rules, for example LC3, LC301 or rank-mismatch; may be repeated.", **completion.RULE
    ),
    ignore: list[str] | None = finding("--ignore", "Not these rules; may be repeated.", **completion.RULE),
    values: bool = finding("--values/--no-values", "Read the tensors' values.", default=True),
    engine: list[str] | None = for_engine(
        "--engine", "Judge by what this engine does with the adapter; may be repeated.", **completion.ENGINE
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
    baseline: Path | None = finding("--baseline FILE", "A file of known findings: only new ones count."),
    write_baseline: Path | None = finding("--write-baseline FILE", "Write the findings to this file."),
    ray: options.Ray = None,
    shard: options.Shard = None,
    statistics: bool = result(
        "--statistics", "Print how often each rule found something, instead of findings.", default=False
    ),
    formats: list[str] | None = result(
        "--format FORMAT[=FILE]",
        "human, concise, json, sarif, junit, github, gitlab or markdown; may be repeated, each into its file.",
        show_default="human",
        autocompletion=completion.words(*FORMATS),
    ),
    output: options.OutputFile = None,
) -> None:
    """Check adapters: format, config, tensors and values, against a base model and inference engines."""
    if fail_on not in FAIL_ON:
        raise UsageError(f"--fail-on is error or warning, not {safe(fail_on)}")
    if base and no_base:
        raise UsageError("--base and --no-base exclude each other", hint="leave one of them out")
    chosen, wanted = choose(select or (), ignore or ()), outputs(formats or (), output, os.environ)
    known, where = known_findings(baseline, write_baseline)
    whole = lineup(manifest, refs or [], base, "validate", checkpoint)
    asked = replace(whole, items=tuple(in_shard(whole.items, shard, lambda item: item.name)))
    settings = reaching(ctx.obj, asked.manifest, policy)
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
    naming = Naming(Path.cwd(), {entry.name: entry.at for entry in entries})
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
        raise UsageError("--baseline and --write-baseline exclude each other", hint="leave one of them out")
    writable(new)
    if baseline is None:
        return None, str(new or "")
    from lora_cli.documents.baseline import load_baseline
    from lora_cli.reading.manifest import read_text

    return load_baseline(read_text(baseline, "baseline"), str(baseline)), str(baseline)


def accepting(judged: Iterable[Checked], known: "Baseline | None", where: str, naming: Naming) -> Iterator[Checked]:
    """Each adapter with what is known of it accepted; ``naming`` says what it is called."""
    if not where:
        yield from judged
        return
    from lora_cli.validation import acceptance

    for one in judged:
        yield acceptance.known(one, naming.identity(one), known, where)


def settled(
    checked: Sequence[Checked],
    known: "Baseline | None",
    new: Path | None,
    naming: Naming,
    rules: "Sequence[Rule]",
    settings: Settings,
) -> list[str]:
    """What baseline and policies say that is no longer so, a sentence each; a new baseline is written.

    Raises:
        MachineError: it cannot be.
    """
    if not settings.suppressions and known is None and new is None:
        return []
    from lora_cli.validation import acceptance

    named = [(naming.identity(one), one) for one in checked]
    notices = list(acceptance.idle(named, settings.suppressions, rules))
    if known is not None:
        notices += acceptance.stale(named, known, [rule.code for rule in rules])
    if new is not None:
        from lora_cli.documents.baseline import render_baseline

        found = ((name, finding, finding.accepted) for name, one in named for finding in one.findings)
        entries = (acceptance.entry_of(name, one) for name, one, by in found if by is not None and by.by == "baseline")
        write(render_baseline(entries), new)
    return notices
