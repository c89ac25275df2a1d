"""``lora-cli warm``: fetch, validate, load and test adapters in a process that owns the device."""

import time
from dataclasses import replace
from functools import wraps
from typing import Any

import typer

from lora_cli.cli.adapter_selection import (
    Inputs,
    apply_policies,
    infer_base,
    read_inputs,
    slot_limits,
    unlocked_warning,
)
from lora_cli.cli.options import in_shard, origin_of, parse_size_option
from lora_cli.cli.output import Format, check_writable, inform, remove_ready_file, termination_log, write, write_result
from lora_cli.cli.warm_endpoints import endpoint_engine, warm_engines
from lora_cli.cli.warm_once import prove_once
from lora_cli.cli.warm_options import WarmOptions
from lora_cli.cli.warm_plan import WarmRun
from lora_cli.cli.warm_serve import ServerOptions, warm_serve
from lora_cli.endpoint.address import Address, is_host
from lora_cli.endpoint.client import Endpoint, Refusal
from lora_cli.errors import EndpointError, UsageError
from lora_cli.redaction import log_to_stderr
from lora_cli.refs.reference import AdapterRef
from lora_cli.render.terminal_warm import status_parts
from lora_cli.settings import Settings

LOG_FORM = "%(asctime)s %(levelname)s %(message)s"

STOP_S = 30.0
POLL_S = 0.05

EXAMPLES = (
    "lora-cli warm -f set.yaml --once",
    "lora-cli warm acme/sql --base acme/llama-3-8b --once --prompt 'List all users'",
    "lora-cli warm -f set.yaml --serve --port 8321",
    "lora-cli warm -f set.yaml --endpoint http://127.0.0.1:8000 --engine vllm",
)


@wraps(WarmOptions, assigned=(), updated=())  # typer reads the options off its fields
def command(**given: Any) -> None:
    """Load adapters into a warm process or running engines, and prove that they work."""
    options = WarmOptions(**given)
    settings: Settings = options.ctx.obj
    modes = _modes(options)
    options = replace(options, once=modes == ["once"], forward="model" if options.prompt else options.forward)
    _check_flags(options, modes)
    if options.status or options.stop:
        server = _endpoint(options)
        _stop(server) if options.stop else _status(server, options.output_format)
        return
    for file in (options.ready_file, options.metrics_file):
        check_writable(file)
    remove_ready_file(options.ready_file)
    may_be_empty = options.serve and bool(options.root or options.policy)

    found: list[str | AdapterRef] = []  # the base that is inferred from configs is looked up once
    known_warnings = [""]  # no warning, and the last one: they are not repeated

    def load_inputs() -> tuple[Inputs, Settings]:
        inputs = read_inputs(options.manifest, options.refs or [], options.base, "warm", may_be_empty=may_be_empty)
        inputs = replace(inputs, items=in_shard(inputs.items, options.shard, lambda item: item.name))
        reached = apply_policies(settings, inputs.manifest, options.policy)
        warning = unlocked_warning(inputs, without_lock=True)
        if warning not in known_warnings:
            inform(warning, settings)
        known_warnings[1:] = [warning]
        if not inputs.base and found:
            inputs = replace(inputs, base=found[0])
        inputs = infer_base(inputs, "warm", reached)
        found[:] = [inputs.base]
        return inputs, reached

    with termination_log():
        inputs, reached = load_inputs()
        if options.endpoint:
            raise typer.Exit(warm_engines(options, endpoint_engine(options.engine, inputs), load_inputs))
        most = slot_limits(
            inputs, options.max_loras, options.max_cpu_loras, options.max_lora_rank, more_may_come=options.serve,
            max_cpu_bytes=parse_size_option(options.max_cpu_bytes, "--max-cpu-bytes"),
        )  # fmt: skip
        run = WarmRun(most, options.device, options.forward, options.eviction)
        if not options.serve:
            raise typer.Exit(prove_once(inputs, run, options, reached))
        if options.log_level is not None:
            log_to_stderr(options.log_level.upper(), LOG_FORM)
        files = (options.ready_file, options.metrics_file)
        at = _endpoint(options)
        serve = ServerOptions(at.address, at.token, options.root or [], options.load_timeout, *files)
        warm_serve(inputs, run, serve, reached)


def _modes(options: WarmOptions) -> list[str]:
    """The modes on the command line; --once by default."""
    return [flag for flag in ("once", "serve", "status", "stop", "endpoint") if getattr(options, flag)] or ["once"]


def _check_flags(options: WarmOptions, modes: list[str]) -> None:
    """Raises ``UsageError`` for several modes, and for a flag that has no effect in the mode."""
    if len(modes) > 1:
        both = " and ".join(f"--{mode}" for mode in modes)
        raise UsageError(f"{both} cannot be used together", hint="use only one of them")

    def is_given(flag: str) -> bool:
        """Whether it is on the command line: a variable may be for other commands, too."""
        return origin_of(options.ctx, flag) == "COMMANDLINE"

    once, left = options.once, options.once or options.serve
    for flag, fits, where in (
        ("prompt", once, "for --once"),
        ("ready_file", left or options.endpoint, "for --once, --serve and --endpoint"),
        ("metrics_file", left, "for --once and --serve"),
        ("log_level", options.serve, "for --serve"),
        ("watch", options.endpoint and options.manifest, "for --endpoint with a manifest (-f)"),
        ("allow_unload", options.endpoint, "for --endpoint"),
    ):
        if getattr(options, flag) and not fits and is_given(flag):
            name = f"--{flag.replace('_', '-')}"
            raise UsageError(f"{name} is {where}", hint=f"remove {name}")
    for flag in ("engine", "engine_path", "prove", "prune", "wait"):
        if not options.endpoint and is_given(flag):
            name = f"--{flag.replace('_', '-')}"
            raise UsageError(f"{name} is for --endpoint", hint=f"remove {name}; lora-cli validate checks for an engine")
    if options.endpoint and options.prune and options.shard is not None and options.manifest is None:
        raise UsageError("--prune would unload the adapters of other shards", hint="use a manifest: -f FILE")


def _endpoint(options: WarmOptions) -> Endpoint:
    if not is_host(options.host):
        raise UsageError(f"--host {options.host!r} is not a host name", hint="--host 127.0.0.1")
    return Endpoint(Address(options.host, options.port, options.uds), options.api_key.strip())


def _status(server: Endpoint, output_format: Format) -> None:
    """Writes the status of a running server. Raises ``EndpointError``."""
    try:
        status = server.get("/v1/status")
    except Refusal as error:
        if error.status != 404:
            raise
        status = None
    if not isinstance(status, dict) or status.get("schema") != "lora_cli/status/1":
        raise EndpointError(
            f"{server.address} is not a lora-cli server", hint="use --host, --port or --uds for another address"
        )
    write_result(status, output_format, status_parts(status))


def _stop(server: Endpoint) -> None:
    """Stops a running server, and waits until it is gone. Raises ``EndpointError``."""
    server.request("POST", "/v1/stop")
    until = time.monotonic() + STOP_S
    while server.listens():
        if time.monotonic() > until:
            raise EndpointError(f"{server.address} still responds after {STOP_S:g} s", hint="stop its process")
        time.sleep(POLL_S)
    write(f"stopped the server at {server.address}\n")
