"""``lora-cli warm`` in a process of our own: every adapter proved once, or a server of them."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path

from lora_cli.base.checkpoint import WEIGHTS_FILE, has_weights
from lora_cli.cli.output import Format, inform, log_failures, write, write_result
from lora_cli.cli.progress import shown as shown_progress
from lora_cli.endpoint.address import Address
from lora_cli.errors import NotFound, UsageError
from lora_cli.fetching.batch import FetchContext
from lora_cli.inputs import Inputs, SlotLimits, base_model
from lora_cli.reports.warm import WarmReport, human
from lora_cli.results import LoadReport
from lora_cli.settings import Settings
from lora_cli.store import InUse, Store
from lora_cli.warm.once import prove_all
from lora_cli.warm.plan import Device, Forward, Plan, base_directory, require_packages_for
from lora_cli.warm.supervisor import ServerOptions, Supervisor, ending_signals


def process_plan(
    inputs: Inputs, slots: SlotLimits, device: Device, forward: Forward, settings: Settings, *, serve: bool
) -> Plan:
    """The layout of the process.

    Raises:
        LoraCliError: a package is missing, or the base cannot be read.
    """
    require_packages_for(forward, *(("starlette", "uvicorn") if serve else ()))
    directory = base_directory(inputs.base)
    if forward == "model" and (directory is None or not has_weights(directory)):
        raise NotFound(
            f"--forward model needs the base's weights, but {inputs.base} has no {WEIGHTS_FILE} on this disk",
            hint="set --base to the folder that has them, or remove --forward model",
        )
    base = base_model(inputs.base, settings, inputs.locked_base)
    return Plan(base, *slots, base_directory=directory, device=device, forward=forward)


def prove_once(
    inputs: Inputs,
    plan: Plan,
    ready_file: Path | None,
    metrics_file: Path | None,
    output_format: Format,
    settings: Settings,
) -> int:
    """Loads and proves every adapter, writes the report, and returns the highest exit code.

    Raises:
        LoraCliError: the base cannot be loaded, or a file cannot be written.
    """
    reports, store = list[LoadReport](), Store(settings.cache_dir)
    with InUse(store) as hold, shown_progress(settings, len(inputs.items), "verified") as shown:

        def on_stage(name: str, stage: str) -> None:
            shown.set_stage(name, stage)
            if settings.verbose:
                inform(f"{name}: {stage}", settings)

        context = FetchContext(store, settings, shown, in_use=hold)
        for report in prove_all(inputs.items, plan, context, on_stage, lambda note: inform(note, settings)):
            reports.append(report)
            shown.adapter_ended(report.name, failed=bool(report.error))
    run = WarmReport(adapters=reports)
    write_result(run, output_format, human(run, quiet=settings.quiet, verbose=settings.verbose))
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
    inputs: Inputs,
    plan: Plan,
    address: Address,
    token: str,
    roots: Sequence[Path],
    ready_file: Path | None,
    settings: Settings,
) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Raises:
        LoraCliError: the server cannot start.
    """
    if not address.is_local and not token:
        raise UsageError(
            f"{address} is reachable from other machines, but there is no token",
            hint="set LORA_CLI_API_KEY, or listen on 127.0.0.1 or a Unix socket",
        )
    # The model name of the base in the API: the Hub id, or the name of the folder.
    base = str(inputs.base).removeprefix("hf://")
    is_folder = "://" in base or base.startswith((".", "/", "~"))
    options = ServerOptions(
        plan,
        settings,
        {item.name: (item, False) for item in inputs.items},
        Path(base.removeprefix("file://")).name if is_folder else base,
        # Snapshots in the server's own cache were admitted by it, or by a trusted process: clients may load them.
        (*(root.absolute() for root in roots), Store(settings.cache_dir).snapshots),
        token,
        None if token or address.uds is not None else address.hosts,
        log_level="INFO" if settings.verbose else "WARNING",
    )
    supervisor = Supervisor(options, address, lambda note: inform(note, settings), ready_file)
    for number in ending_signals():
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()
