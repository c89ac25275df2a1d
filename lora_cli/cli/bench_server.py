"""``serve-bench`` without a URL: ``warm --serve --forward model`` as a child, measured as any other server.

The child listens at a Unix socket that only we know. It gets what it serves as a pickle on its standard input, and
ends when that closes: it outlives nobody. What keeps it from serving comes back on its standard output.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from lora_cli.bench.live.numbers import live_names
from lora_cli.bench.ranks import parse_ranks
from lora_cli.cli.bench_adapters import Failures, measured_lineup, servable
from lora_cli.cli.bench_in_process import chosen_device, chosen_eviction
from lora_cli.cli.bench_live import live
from lora_cli.cli.bench_options import RANKS, BenchOptions, workload_of
from lora_cli.cli.bench_results import concluding
from lora_cli.cli.lineup import Lineup, base_model, limits
from lora_cli.cli.warm_serve import Serve, warm_serve
from lora_cli.cli.warming import Run, has_base_weights, require_packages
from lora_cli.core import parse
from lora_cli.endpoint.address import Address
from lora_cli.errors import ERRORS, FormatError, LoraCliError, MachineError, UsageError
from lora_cli.render.json import encoded
from lora_cli.runtime.plan import Limits
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.holds import holding
from lora_cli.validation import open_config

STARTED_S = 0.02
ENDED_S = 15.0
LOAD_TIMEOUT = "10m"
START = "from lora_cli.cli.bench_server import run_child; run_child()"


def own_server_measured(settings: Settings, options: BenchOptions) -> int:
    """Start the server, measure it and report it; the exit code. A base without weights gets random ones.

    Raises:
        LoraCliError: what is asked for is wrong, or keeps the server from serving.
    """
    require_packages("serve-bench without --forward modules", "models", "torch", "transformers")
    if options.lora_modules:
        raise UsageError("--lora-modules is for --url", hint="REFs or a manifest name the adapters here")
    concluding(options, live_names())
    device, eviction = chosen_device(options), chosen_eviction(options)
    with ExitStack() as stack:
        asked, own = stack.enter_context(measured_lineup(settings, options, workload_of(options)))
        rank = options.max_lora_rank
        if rank is None and options.num_adapters is not None:
            # What a slot must take for synthetic adapters; of others the server knows it once they are read.
            rank = max(rank for rank, _ in parse_ranks(options.ranks or RANKS).shares)
        most = limits(asked, options.max_loras, options.max_cpu_loras, rank)
        # The config of a base whose weights are not on this disk; what they are is the same to the clock.
        dummy = None if has_base_weights(asked.base) else open_config(asked.base, settings)
        failures: Failures = {}
        asked = _servable(stack, asked, most, own, failures)
        run = Run(most, device, "model", eviction, dummy=dummy)
        url = stack.enter_context(own_server(asked, run, own))
        facts = {"max_loras": str(most.max_loras), "max_cpu_loras": str(most.max_cpu_loras), "eviction": eviction}
        facts |= {"weights": "dummy"} if dummy is not None else {}
        return live(settings, replace(options, url=url, api_key=""), facts, failures)


def _servable(stack: ExitStack, asked: Lineup, most: Limits, settings: Settings, failures: Failures) -> Lineup:
    """Those of the adapters that can be served, held until the end.

    Raises:
        LoraCliError: none can; the reason of the first.
    """
    hold = stack.enter_context(holding(Store(settings.cache_dir)))
    names = {job.name for job in servable(asked, base_model(asked.base, settings), most, settings, hold, failures)}
    if not names:
        (name, error), *more = failures.items()
        hint = "; ".join(filter(None, (error.hint, f"nor can {len(more)} more" if more else "")))
        code = max(one.exit_code for one in failures.values())
        raise ERRORS[code](f"{name} cannot be served: {error.message}", hint=hint)
    return replace(asked, items=tuple(item for item in asked.items if item.name in names))


@contextmanager
def own_server(asked: Lineup, run: Run, settings: Settings) -> Iterator[str]:
    """The address of a server of these adapters, which is ready; it ends with the block.

    Raises:
        LoraCliError: what keeps it from serving.
    """
    with tempfile.TemporaryDirectory(prefix="lora-cli-serve-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        serve = Serve(Address(uds=folder / "socket"), "", (), LOAD_TIMEOUT, folder / "ready", None)
        # A session of its own: Ctrl-C is for us, and the server answers until we have told what there is.
        with subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                with suppress(BrokenPipeError):
                    pickle.dump((asked, run, serve, replace(settings, quiet=not settings.verbose)), child.stdin)
                    child.stdin.flush()
                while not (folder / "ready").exists():
                    if child.poll() is not None:
                        raise _reason(child.stdout)
                    time.sleep(STARTED_S)
                yield str(serve.address)
            finally:  # it ends in order when its standard input closes, and after some time without
                with suppress(BrokenPipeError):
                    child.stdin.close()
                try:
                    child.wait(ENDED_S)
                except subprocess.TimeoutExpired:
                    child.kill()


def run_child() -> None:
    """The child's life: serve until standard input closes."""
    served = pickle.load(sys.stdin.buffer)  # noqa: S301 - of our own parent
    threading.Thread(target=_watch, daemon=True).start()
    try:
        warm_serve(*served)
    except LoraCliError as error:
        sys.stdout.write(encoded({"code": error.exit_code, "message": error.message, "hint": error.hint}))
        sys.stdout.flush()


def _watch() -> None:
    """Ends this process, in order, when its parent closes the pipe or is gone."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _reason(said: IO[bytes]) -> LoraCliError:
    """What the child said before it ended."""
    try:
        fields = parse.json_object(said.read(), "the server")
        kind = ERRORS.get(parse.integer(fields.get("code"), "code"), LoraCliError)
        return kind(parse.text(fields.get("message"), "message"), hint=parse.text(fields.get("hint"), "hint"))
    except FormatError:
        return MachineError("the server ended before it was ready", hint="--verbose says how far it came")
