"""Our own server, for as long as it is measured: ``warm --serve`` in a process that ends with this one."""

import ctypes
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lora_cli.endpoint.address import Address
from lora_cli.errors import ERRORS, MachineError, MissingExtra

POLL_S, STOP_S = 0.05, 15.0
PR_SET_PDEATHSIG = 1


@contextmanager
def own_server(argv: Sequence[str]) -> Iterator[Address]:
    """Run ``lora-cli warm ARGV --serve`` on a private Unix socket until the block ends; the address once it is ready.

    Raises:
        MissingExtra: it needs a package that is not installed.
        SystemExit: it ended with an error, which it has printed.
        MachineError: it ended otherwise.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtra("serve-bench of its own server", "models", package)
    with tempfile.TemporaryDirectory(prefix="lora-cli-bench-", ignore_cleanup_errors=True) as folder:
        socket, ready = Path(folder, "socket"), Path(folder, "ready")
        listen = ["--uds", str(socket)]
        command = [sys.executable, "-m", "lora_cli", "warm", *argv, "--serve", *listen, "--ready-file", str(ready)]
        # Ctrl-C is for this process, which still needs the server for its report.
        with subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509
        ) as server:
            try:
                while not ready.exists():
                    if (code := server.poll()) is not None:
                        if code in ERRORS:
                            raise SystemExit(code)
                        raise MachineError(f"the server ended with {code} before it was ready")
                    time.sleep(POLL_S)
                yield Address(uds=socket)
            finally:
                server.terminate()
                try:
                    server.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    server.kill()


def _end_with_parent() -> None:
    """Have Linux stop this process when its parent ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
