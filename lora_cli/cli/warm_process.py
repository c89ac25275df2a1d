"""``lora-cli warm`` in a process of our own: every adapter proved once, or a server of them."""

import json
import signal
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from lora_cli.base.checkpoint import WEIGHTS_FILE, has_weights
from lora_cli.cli.adapter_selection import Inputs, base_model, slot_limits
from lora_cli.cli.output import Format, inform, log_failures, write, write_result
from lora_cli.cli.progress import stage_progress
from lora_cli.endpoint.address import Address
from lora_cli.errors import INTERRUPTED, LoraCliError, NotFound, UsageError
from lora_cli.fetching.batch import FetchContext
from lora_cli.finding import Deployment
from lora_cli.isolation import report_of
from lora_cli.judging.judge import Terms, fetch_one, judge_fetched
from lora_cli.refs.request import Request
from lora_cli.render.terminal import separated
from lora_cli.render.terminal_warm import answer_parts, load_parts
from lora_cli.render.warm_report import WarmReport
from lora_cli.results import Answers, LoadReport
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.locks import InUse
from lora_cli.warm.plan import Device, Forward, LoraRequest, Plan, base_directory, quiet_threads, require_packages_for
from lora_cli.warm.supervisor import ServerOptions, Supervisor, ending_signals

PROMPT_TOKENS = 40
"""The most tokens of an answer to ``--prompt``."""

Files = tuple[Path | None, Path | None]
"""``--ready-file`` and ``--metrics-file``."""


def process_plan(
    inputs: Inputs,
    limits: tuple[int | None, int | None, int | None],
    device: Device,
    forward: Forward,
    settings: Settings,
    *,
    more_may_come: bool = False,
) -> Plan:
    """The layout of the process; ``limits`` are max_loras, max_cpu_loras and max_lora_rank as given.

    Raises:
        LoraCliError: a package is missing, or the base cannot be read.
    """
    slots = slot_limits(inputs, *limits, more_may_come=more_may_come)
    require_packages_for(forward)
    directory = base_directory(inputs.base)
    if forward == "model" and (directory is None or not has_weights(directory)):
        raise NotFound(
            f"--forward model needs the base's weights, but {inputs.base} has no {WEIGHTS_FILE} on this disk",
            hint="set --base to the folder that has them, or remove --forward model and --prompt",
        )
    base = base_model(inputs.base, settings, inputs.locked_base)
    return Plan(base, *slots, base_directory=directory, device=device, forward=forward)


def prove_once(inputs: Inputs, plan: Plan, prompt: str, files: Files, output_format: Format, settings: Settings) -> int:
    """Loads and proves every adapter, writes the report, and returns the highest exit code.

    After an interrupt the remaining adapters are reported as not done.

    Raises:
        LoraCliError: the base cannot be loaded, or a file cannot be written.
    """
    undone = LoadReport("", error="not done: interrupted", exit_code=INTERRUPTED)
    reports, answers = [replace(undone, name=item.name) for item in inputs.items], list[Answers]()
    accepted: list[tuple[int, LoadReport, LoraRequest]] = []
    store = Store(settings.cache_dir)
    terms = Terms(plan.base, deployment=Deployment(max_lora_rank=plan.max_lora_rank or None))
    with InUse(store) as hold, stage_progress(settings, len(inputs.items)) as shown, suppress(KeyboardInterrupt):
        run = FetchContext(store, settings, shown, in_use=hold)
        for place, item in enumerate(inputs.items):
            on_stage = partial(shown.set_stage, item.name)
            result = judge_fetched(fetch_one(item, run, on_stage), terms, settings, on_stage)
            report, snapshot = report_of(item, result), result.snapshot
            if report.error or snapshot is None or result.adapter is None:
                reports[place] = report
            else:
                lora = LoraRequest(item.name, snapshot.directory, result.adapter, snapshot.digest, item.pinned)
                accepted.append((place, report, lora))
            shown.adapter_ended(item.name, failed=bool(report.error))
        if accepted:
            quiet_threads()
            shown.begin_part("proved", len(accepted))
            shown.set_stage("the base", "load")
            from lora_cli.warm.worker import Worker

            def tell(name: str, stage: str) -> None:
                shown.set_stage(name, stage)
                if settings.verbose:
                    inform(f"{name}: {stage}", settings)

            with closing(Worker(plan)) as worker:
                for note in worker.notes:
                    inform(note, settings)
                for place, judged, lora in accepted:
                    loaded = worker.load(lora, tell)
                    if prompt and not loaded.error:
                        try:
                            answers.append(worker.answer(lora, prompt, PROMPT_TOKENS))
                        except LoraCliError as error:
                            loaded = loaded.failed("answer", error)
                    reports[place] = loaded.after(judged)
                    shown.adapter_ended(lora.name, failed=bool(loaded.error))
    return _written(inputs, reports, answers, files, output_format, settings)


def _written(
    inputs: Inputs,
    reports: Sequence[LoadReport],
    answers: Sequence[Answers],
    files: Files,
    output_format: Format,
    settings: Settings,
) -> int:
    ready_file, metrics_file = files
    parts = separated(load_parts(reports, quiet=settings.quiet), answer_parts(() if settings.quiet else answers))
    write_result(WarmReport(adapters=reports, answers=answers), output_format, parts)
    if inputs.engine is not None and inputs.manifest is not None and not all(report.error for report in reports):
        check = f"lora-cli validate -f {inputs.manifest.file}"
        inform(f"the proofs follow PEFT; to check the adapters for {inputs.engine.name}: {check}", settings)
    if metrics_file is not None:
        from lora_cli.warm.metrics import Metrics

        metrics = Metrics()
        for report in reports:
            metrics.loaded(report)
        metrics.failed = {report.name: report for report in reports if report.error}
        write(metrics.text(), metrics_file)
    log_failures((report.name, report.error, report.stage) for report in reports if report.error)
    code = max((report.exit_code for report in reports), default=0)
    if ready_file is not None and code == 0:
        write(json.dumps({"pid": None, "proved": len(reports)}) + "\n", ready_file)
    return code


def serve_adapters(
    inputs: Inputs, plan: Plan, address: Address, token: str, roots: Sequence[str], files: Files, settings: Settings
) -> None:
    """Serves until SIGTERM, Ctrl-C or ``--stop``.

    Raises:
        LoraCliError: the server cannot start.
    """
    require_packages_for(plan.forward, "starlette", "uvicorn")
    if not address.is_local and not token:
        raise UsageError(
            f"{address} is reachable from other machines, but there is no token",
            hint="set LORA_CLI_API_KEY, or listen on 127.0.0.1 or a Unix socket",
        )
    folders = [Path(root).absolute() for root in roots]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--root {folder} is not a folder", hint="use the folder that contains the adapters")
    options = ServerOptions(
        plan,
        settings,
        {item.name: (item, False) for item in uniquely_named(inputs.items)},
        _base_name(inputs),
        # Snapshots in the server's own cache were admitted by it, or by a trusted process: clients may load them.
        (*folders, Store(settings.cache_dir).snapshots),
        token,
        None if token or address.uds is not None else address.hosts,
        *files,
        log_level="INFO" if settings.verbose else "WARNING",
    )
    supervisor = Supervisor(options, address, lambda note: inform(note, settings))
    for number in ending_signals():
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()


def _base_name(inputs: Inputs) -> str:
    """The model name of the base in the API: the Hub id, or the name of the folder."""
    text = str(inputs.base).removeprefix("hf://")
    return Path(text.removeprefix("file://")).name if "://" in text or text.startswith((".", "/", "~")) else text


def uniquely_named(items: Sequence[Request]) -> list[Request]:
    """The adapters with the model names of the API: the name in the manifest, or the last part of the REF.

    Raises:
        UsageError: two have the same name.
    """
    named: dict[str, Request] = {}
    for item in items:
        name = item.name.rstrip("/").rpartition("/")[2] or item.name
        if name in named:
            raise UsageError(
                f"{item.name} and {named[name].source} would have the same name {name}",
                hint="name them in a manifest: -f",
            )
        named[name] = replace(item, name=name)
    return list(named.values())
