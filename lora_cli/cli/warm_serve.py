"""``lora-cli warm --serve``: a warm process behind an HTTP API, until it is stopped."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lora_cli.cli.adapter_selection import Lineup, base_model
from lora_cli.cli.options import seconds
from lora_cli.cli.warm_plan import Run, has_base_weights, planned, require_packages, say, tell_stage
from lora_cli.core.adapter_request import Item
from lora_cli.core.log import logger
from lora_cli.core.target_modules import all_linear
from lora_cli.endpoint.address import Address
from lora_cli.errors import NotFound, UsageError
from lora_cli.reading.base_model import WEIGHTS_FILE
from lora_cli.runtime.child_process import Died
from lora_cli.runtime.plan import Needs, Plan, lay_out
from lora_cli.runtime.warm_process import WarmProcess, require
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker

STOP_S = 0.5
"""How long the process that owns the device may take to end by itself, and again after SIGTERM."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Serve:
    """The server's own settings besides those of the warm process: where it listens, and what it writes."""

    address: Address
    token: str
    roots: Sequence[str]
    load_timeout: str
    ready_file: Path | None
    metrics_file: Path | None


def warm_serve(asked: Lineup, run: Run, serve: Serve, settings: Settings) -> None:
    """Serve until SIGTERM, Ctrl-C or ``--stop``.

    Raises:
        LoraCliError: why it cannot, or could not go on.
    """
    require(run.forward)
    require_packages("warm --serve", "warm", "starlette", "uvicorn")
    if run.forward == "model" and run.dummy is None and not has_base_weights(asked.base):
        # The child would say it later: that there is no model to answer with.
        raise NotFound(
            f"--forward model needs the base's weights, but {asked.base} has no {WEIGHTS_FILE} on this disk",
            hint="set --base to the folder that has them, or remove --forward model",
        )
    address, token = serve.address, serve.token
    if not address.is_local and not token:
        raise UsageError(
            f"{address} is reachable from other machines, but there is no token",
            hint="set LORA_CLI_API_KEY, or listen on 127.0.0.1 or a Unix socket",
        )
    timeout_s = seconds(serve.load_timeout, "--load-timeout")
    items, roots = uniquely_named(asked.items), _folders(serve.roots)
    # What is in the server's own cache was admitted by it, or by one that it trusts: clients may name it.
    roots.append(Store(settings.cache_dir).snapshots)
    from lora_cli.serving.adapter_manager import Host
    from lora_cli.serving.admissions import Admissions, Setup
    from lora_cli.serving.api import Api
    from lora_cli.serving.request_rates import read_past
    from lora_cli.serving.server import Files
    from lora_cli.serving.server import serve as listen

    base = base_model(asked.base, settings)
    kept = settings.cache_dir / "history" / f"{hashlib.sha256(str(asked.base).encode()).hexdigest()[:32]}.json"
    past = read_past(kept)
    plan = replace(planned(asked, run, base, settings), history=past.tiers)
    told = partial(tell_stage, settings)
    process = partial(
        WarmProcess, deadline_s=timeout_s, stop_deadline_s=STOP_S, tell=told, died=_log_death, revived=_log_return
    )
    open_process = partial(_open_process, plan, process)
    copy = run.copies.admitted if run.copies is not None else None
    level = logging.getLogger("lora_cli").getEffectiveLevel()
    setup = Setup(settings, base, run.limits.max_lora_rank or None, tuple(roots), copy, level)
    with InUseMarker(Store(settings.cache_dir)) as hold, closing(Admissions(setup, hold, timeout_s)) as admissions:
        admissions.start()
        slots, memory = run.limits.max_loras, run.limits.max_cpu_loras
        host = Host(items, admissions, open_process, slots=slots, memory=memory, past=past)
        hosts = None if token or address.uds is not None else address.hosts
        api = Api(host, settings, _base_name(asked), roots, run.forward == "model", token, hosts)
        listen(api, address, Files(serve.ready_file, serve.metrics_file, kept), lambda note: say(note, settings))


def _open_process(plan: Plan, process: Callable[[Plan], WarmProcess], needs: Sequence[Needs]) -> WarmProcess:
    """Slots for all adapters that are known so far, and for the modules that most adapters are on."""
    return process(lay_out(plan, needs, all_linear(plan.base)))


def _log_death(why: Died) -> None:
    hint = f" ({why.hint})" if why.hint else ""
    log.warning("%s%s; it is started again", why.message, hint)


def _log_return() -> None:
    log.warning("the warm process is ready again")


def _base_name(asked: Lineup) -> str:
    """What clients call the base: a Hub id as it is, a folder by its name."""
    text = str(asked.base).removeprefix("hf://")
    return Path(text.removeprefix("file://")).name if "://" in text or text.startswith((".", "/", "~")) else text


def uniquely_named(items: Sequence[Item]) -> list[Item]:
    """Adapters by the names that clients use: a manifest's, or the last part of each REF.

    Raises:
        UsageError: two have the same.
    """
    named: dict[str, Item] = {}
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
