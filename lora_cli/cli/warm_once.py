"""``lora-cli warm --once``: every adapter fetched, validated, loaded and proved, one after the other."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from lora_cli.base.base_model import BaseModel
from lora_cli.cli.adapter_selection import Inputs, base_model
from lora_cli.cli.output import inform, log_failures, write, write_result
from lora_cli.cli.progress import RunProgress, stage_progress
from lora_cli.cli.warm_options import WarmOptions
from lora_cli.cli.warm_plan import WarmRun, admission_function, log_stage, process_plan
from lora_cli.errors import INTERRUPTED, LoraCliError
from lora_cli.finding import Deployment
from lora_cli.judging.judge import Terms
from lora_cli.render.prometheus_metrics import render_load_metrics
from lora_cli.render.terminal import separated
from lora_cli.render.terminal_warm import answer_parts, load_parts
from lora_cli.render.warm_report import WarmReport
from lora_cli.results import Answers, LoadReport
from lora_cli.runtime.load_jobs import merge_reports, report_of_admission
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.plan import Plan, plan_slots, slot_requirements
from lora_cli.runtime.warm_process import WarmProcess, require_packages_for
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.locks import InUse

Accepted = tuple[int, LoadReport, LoraRequest]
"""The index of an adapter, its report so far, and its job."""


def prove_once(inputs: Inputs, run: WarmRun, once: WarmOptions, settings: Settings) -> int:
    """Loads and proves every adapter, writes the report, and returns the highest exit code.

    Raises:
        MachineError: a file cannot be written.
    """
    require_packages_for(run.forward)
    base = base_model(inputs.base, settings, inputs.locked_base)
    reports, answers = warm_once(inputs, base, run, once, settings)
    parts = separated(load_parts(reports, quiet=settings.quiet), answer_parts(() if settings.quiet else answers))
    report = WarmReport(adapters=reports, answers=answers)
    write_result(report, once.output_format, parts)
    if inputs.engine is not None and inputs.manifest is not None and not all(report.error for report in reports):
        check = f"lora-cli validate -f {inputs.manifest.file}"
        inform(f"the proofs follow PEFT; to check the adapters for {inputs.engine.name}: {check}", settings)
    if once.metrics_file is not None:
        write(render_load_metrics(reports), once.metrics_file)
    log_failures((report.name, report.error, report.stage) for report in reports if report.error)
    code = max((report.exit_code for report in reports), default=0)
    if once.ready_file is not None and code == 0:
        write(json.dumps({"pid": None, "proved": len(reports)}) + "\n", once.ready_file)
    return code


def warm_once(
    inputs: Inputs, base: BaseModel, run: WarmRun, once: WarmOptions, settings: Settings
) -> tuple[list[LoadReport], list[Answers]]:
    """The reports of all adapters in the given order, and the answers of those that were proved.

    After an interrupt the remaining adapters are reported as not done.
    """
    store = Store(settings.cache_dir)
    terms = Terms(base, deployment=Deployment(max_lora_rank=run.limits.max_lora_rank or None))
    undone = LoadReport("", error="not done: interrupted", exit_code=INTERRUPTED)
    reports, answers = [replace(undone, name=item.name) for item in inputs.items], list[Answers]()
    with InUse(store) as hold, stage_progress(settings, len(inputs.items)) as shown:
        admit = admission_function(terms, settings, hold, on_stage=shown.set_stage, progress=shown)
        with suppress(KeyboardInterrupt):
            accepted: list[Accepted] = []
            for place, item in enumerate(inputs.items):
                admission = admit(item)
                report, job = report_of_admission(item, admission)
                if job is None:
                    reports[place] = report
                else:
                    accepted.append((place, report, job))
                shown.adapter_ended(item.name, failed=job is None)
            if accepted:
                needs = [slot_requirements(job.adapter, base) for _, _, job in accepted]
                plan = plan_slots(process_plan(inputs, run, base), needs)
                for place, report in _loaded(accepted, plan, once, answers, shown, settings):
                    reports[place] = report
                    shown.adapter_ended(report.name, failed=bool(report.error))
    return reports, answers


def _loaded(
    accepted: Sequence[Accepted],
    plan: Plan,
    once: WarmOptions,
    answers: list[Answers],
    shown: RunProgress,
    settings: Settings,
) -> Iterator[tuple[int, LoadReport]]:
    """Loads and proves the accepted adapters in a warm process; adds to ``answers``."""

    def tell(name: str, stage: str) -> None:
        shown.set_stage(name, stage)
        log_stage(settings, name, stage)

    shown.begin_part("proved", len(accepted))
    with WarmProcess(plan, on_stage=tell) as process:
        shown.set_stage("warm process", "start")
        for note in process.start().notes:
            inform(note, settings)
        for place, report, job in accepted:
            loaded = merge_reports(report, process.load(job))
            if once.prompt and not loaded.error:
                try:
                    answers.append(process.answer(job, once.prompt, once.max_tokens))
                except LoraCliError as error:
                    loaded = loaded.failed("answer", error)
            yield place, loaded
