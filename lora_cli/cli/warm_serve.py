"""``lora-cli warm --serve``: a warm process behind an HTTP API, until it is stopped."""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lora_cli.base.checkpoint import WEIGHTS_FILE
from lora_cli.cli.adapter_selection import Inputs, base_model
from lora_cli.cli.options import parse_duration_option
from lora_cli.cli.output import inform
from lora_cli.cli.warm_plan import WarmRun, has_base_weights, log_stage, process_plan, require_packages
from lora_cli.endpoint.address import Address
from lora_cli.errors import NotFound, UsageError
from lora_cli.finding import Deployment
from lora_cli.peft.targets import all_linear
from lora_cli.redaction import logger
from lora_cli.refs.request import Request
from lora_cli.runtime.child_process import ProcessDied
from lora_cli.runtime.plan import Plan, SlotRequirements, plan_slots
from lora_cli.runtime.warm_process import WarmProcess, require_packages_for
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.locks import InUse

STOP_S = 0.5
"""Time that the process that owns the device has to exit by itself, and again after SIGTERM."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of the HTTP server: its address, access, and files."""

    address: Address
    token: str
    roots: Sequence[str]
    load_timeout: str
    ready_file: Path | None
    metrics_file: Path | None


def warm_serve(inputs: Inputs, run: WarmRun, serve: ServerOptions, settings: Settings) -> None:
    """Serves until SIGTERM, Ctrl-C or ``--stop``.

    Raises:
        LoraCliError: the server cannot start, or failed.
    """
    require_packages_for(run.forward)
    require_packages("warm --serve", "warm", "starlette", "uvicorn")
    if run.forward == "model" and run.dummy is None and not has_base_weights(inputs.base):
        # Without this check the process that owns the device would fail later.
        raise NotFound(
            f"--forward model needs the base's weights, but {inputs.base} has no {WEIGHTS_FILE} on this disk",
            hint="set --base to the folder that has them, or remove --forward model",
        )
    address, token = serve.address, serve.token
    if not address.is_local and not token:
        raise UsageError(
            f"{address} is reachable from other machines, but there is no token",
            hint="set LORA_CLI_API_KEY, or listen on 127.0.0.1 or a Unix socket",
        )
    timeout_s = parse_duration_option(serve.load_timeout, "--load-timeout")
    items, roots = uniquely_named(inputs.items), _folders(serve.roots)
    # Snapshots in the server's own cache were admitted by it, or by a trusted process: clients may load them.
    roots.append(Store(settings.cache_dir).snapshots)
    from lora_cli.serving.adapter_manager import AdapterManager
    from lora_cli.serving.admissions import Admissions, AdmissionSettings
    from lora_cli.serving.api import Api
    from lora_cli.serving.server import OutputFiles
    from lora_cli.serving.server import serve as listen

    base = base_model(inputs.base, settings, inputs.locked_base)
    plan = process_plan(inputs, run, base)
    process = partial(
        WarmProcess,
        deadline_s=timeout_s,
        stop_deadline_s=STOP_S,
        on_stage=partial(log_stage, settings),
        on_death=_log_death,
        on_restart=_log_return,
    )
    open_process = partial(_open_process, plan, process)
    level = logging.getLogger("lora_cli").getEffectiveLevel()
    deployment = Deployment(max_lora_rank=run.limits.max_lora_rank or None)
    setup = AdmissionSettings(settings, base, tuple(roots), level, deployment=deployment)
    with InUse(Store(settings.cache_dir)) as hold, closing(Admissions(setup, hold, timeout_s)) as admissions:
        admissions.start()
        slots, memory = run.limits.max_loras, run.limits.max_cpu_loras
        host = AdapterManager(items, admissions, open_process, max_loras=slots, max_cpu_loras=memory)
        hosts = None if token or address.uds is not None else address.hosts
        api = Api(host, settings, _base_name(inputs), roots, run.forward == "model", token, hosts)
        listen(
            api,
            address,
            OutputFiles(serve.ready_file, serve.metrics_file),
            lambda note: inform(note, settings),
        )


def _open_process(plan: Plan, process: Callable[[Plan], WarmProcess], needs: Sequence[SlotRequirements]) -> WarmProcess:
    """Starts the process with slots for the known adapters, and for the modules that most adapters have."""
    return process(plan_slots(plan, needs, all_linear(plan.base)))


def _log_death(why: ProcessDied) -> None:
    hint = f" ({why.hint})" if why.hint else ""
    log.warning("%s%s; restarting it", why.message, hint)


def _log_return() -> None:
    log.warning("the warm process is ready again")


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


def _folders(roots: Sequence[str]) -> list[Path]:
    folders = [Path(root).absolute() for root in roots]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--root {folder} is not a folder", hint="use the folder that contains the adapters")
    return folders
