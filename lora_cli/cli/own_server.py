"""``warm --serve --forward model`` as a child, for as long as it is measured: at a Unix socket that only we know.

The child gets what it serves as a pickle on its standard input, and ends when that closes: it outlives nobody. What
keeps it from serving comes back on its standard output.
"""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from lora_cli.cli.lineup import Lineup
from lora_cli.cli.warming import Run
from lora_cli.core import parse
from lora_cli.errors import ERRORS, FormatError, LoraCliError, MachineError
from lora_cli.settings import Settings

STARTED_S = 0.02
ENDED_S = 15.0
LOAD_TIMEOUT = "10m"
START = "from lora_cli.cli.own_server import run_child; run_child()"


@dataclass(frozen=True, slots=True)
class Served:
    """What the child is to serve, and where."""

    asked: Lineup
    run: Run
    settings: Settings
    uds: Path
    ready_file: Path


@contextmanager
def own_server(asked: Lineup, run: Run, settings: Settings) -> Iterator[str]:
    """The address of a server of these adapters, which is ready; it ends with the block.

    Raises:
        LoraCliError: what keeps it from serving.
    """
    folder = Path(tempfile.mkdtemp(prefix="lora-cli-serve-"))
    served = Served(asked, run, replace(settings, quiet=not settings.verbose), folder / "socket", folder / "ready")
    # A session of its own: Ctrl-C is for us, and the server answers until we have told what there is.
    child = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with suppress(BrokenPipeError):
            pickle.dump(served, child.stdin)
            child.stdin.flush()
        while not served.ready_file.exists():
            if child.poll() is not None:
                raise _reason(child.stdout)
            time.sleep(STARTED_S)
        yield f"unix:{served.uds}"
    finally:
        _end(child, child.stdin, child.stdout)
        shutil.rmtree(folder, ignore_errors=True)


def run_child() -> None:
    """The child's life: serve until standard input closes."""
    served: Served = pickle.load(sys.stdin.buffer)  # noqa: S301 - of our own parent
    threading.Thread(target=_watch, daemon=True).start()
    from lora_cli.cli.warm_serve import Serve, warm_serve
    from lora_cli.endpoint.address import Address
    from lora_cli.endpoint.client import Endpoint

    endpoint = Endpoint(Address(uds=served.uds))
    try:
        warm_serve(
            served.asked, served.run, Serve(endpoint, (), LOAD_TIMEOUT, served.ready_file, None), served.settings
        )
    except LoraCliError as error:
        from lora_cli.render.json import encoded

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


def _end(child: "subprocess.Popen[bytes]", stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """In order, and after some time without."""
    with suppress(BrokenPipeError):
        stdin.close()
    try:
        child.wait(ENDED_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    stdout.close()
