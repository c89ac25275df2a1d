"""The supervisor of ``warm --serve``: it binds the socket, and starts the one server process again when that dies.

While it restarts, connections wait in the socket. A crash costs the requests in flight; the adapter that was being
loaded is not loaded again until it changes, and the others come back. Torch-free.
"""

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_cli.endpoint.address import Address
from lora_cli.errors import ERRORS, LoraCliError, MachineError
from lora_cli.isolation import cause_of_end, start_module
from lora_cli.refs.reference import parse
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.store.disk import write_file
from lora_cli.warm.plan import Plan, quiet_threads

BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted."""

STOP_S = 15.0
"""How long the server's process may take to end after SIGTERM."""

STEADY_S, LONGEST_PAUSE_S = 10.0, 30.0
"""A process that lived shorter is started again after a pause, which doubles up to the longest one."""

KILLED_HINT = "the kernel kills processes that use too much memory: lower --max-loras or --max-cpu-loras"


@dataclass(slots=True)
class ServerOptions:
    """What the server's process is started with.

    ``requests`` are the adapters by name, each with whether a client registered it; clients may load what is below
    ``roots``. ``hosts`` are the accepted Host headers (None: all), ``token`` the required one ("": none). ``starts``
    counts the processes, and ``crashed`` has, by digest, why one died while it loaded an adapter.
    """

    plan: Plan
    settings: Settings
    requests: dict[str, tuple[Request, bool]]
    base_name: str
    roots: tuple[Path, ...] = ()
    token: str = ""
    hosts: frozenset[str] | None = None
    log_level: str = "WARNING"
    starts: int = 1
    crashed: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """Runs the server at ``address`` until ``stop``. ``say`` tells the user what happens.

    ``ready_file`` is there while the server is ready.
    """

    def __init__(
        self, options: ServerOptions, address: Address, say: Callable[[str], None], ready_file: Path | None = None
    ) -> None:
        self._options, self._address, self._say, self._ready_file = options, address, say, ready_file
        self._process: subprocess.Popen[bytes] | None = None
        self._loading: tuple[str, str] | None = None
        self._error: LoraCliError | None = None
        self._started = False
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve; returns when the server was stopped.

        Raises:
            LoraCliError: it cannot listen at the address, or the base cannot be loaded.
        """
        quiet_threads()
        pause_s = 0.0
        with listening(self._address) as listener:
            self._say(f"listening on {self._address}")
            while True:
                began = time.monotonic()
                status = self._run_process(listener)
                with suppress(OSError):
                    if self._ready_file is not None and self._ready_file.is_file():
                        self._ready_file.unlink()
                if self._stopping.is_set():
                    break
                self._after_crash(status)
                pause_s = 0.0 if time.monotonic() - began > STEADY_S else min(LONGEST_PAUSE_S, pause_s * 2 + 0.1)
                self._stopping.wait(pause_s)
        self._say("stopped")

    def stop(self) -> None:
        """End the server, from any thread or a signal's handler."""
        self._stopping.set()
        if (process := self._process) is not None and process.poll() is None:
            process.terminate()
            late = threading.Timer(STOP_S, process.kill)
            late.daemon = True
            late.start()

    def _run_process(self, listener: socket.socket) -> int:
        """One life of the server's process; its exit status."""
        ours, theirs = multiprocessing.Pipe()
        with ours:
            with theirs:
                descriptors = [listener.fileno(), theirs.fileno()]
                self._process = start_module(
                    "lora_cli.warm.server",
                    *map(str, descriptors),
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # signals of a terminal are for this process
                )
            if self._stopping.is_set():
                self._process.terminate()
            self._error, self._loading = None, None
            with suppress(EOFError, OSError):
                ours.send(self._options)
                while True:
                    self._heard(json.loads(ours.recv_bytes()))
            return self._process.wait()

    def _heard(self, event: list[Any]) -> None:
        """What the process tells, of which the next one has to know."""
        match event:
            case ["loading", name, digest]:
                self._loading = name, digest
            case ["loaded"]:
                self._loading = None
            case ["registered", name, source, kept]:
                request = Request(name, parse(source, is_path=lambda _: True), keep_loaded=kept)
                self._options.requests[name] = request, True
            case ["removed", name]:
                self._options.requests.pop(name, None)
            case ["started", notes]:
                self._started = True
                for note in notes if self._options.starts == 1 else ():
                    self._say(note)
            case ["failed", code, message, hint]:
                self._error = ERRORS.get(code, LoraCliError)(message, hint=hint)
            case ["ready", proved, adapters, problems]:
                self._say(f"ready: {proved} of {adapters} adapters loaded and proved")
                for problem in problems:
                    self._say(problem)
                if self._ready_file is not None:
                    try:
                        write_file(self._ready_file, json.dumps({"pid": os.getpid(), "proved": proved}) + "\n")
                    except OSError as error:
                        self._say(f"{self._ready_file} cannot be written: {error.strerror}")

    def _after_crash(self, status: int) -> None:
        """Say why the process died, and remember the adapter that it was loading.

        Raises:
            LoraCliError: no process has got as far as that yet.
        """
        reason = f"the server's process {cause_of_end(status)}"
        if not self._started and self._loading is None:
            raise self._error or MachineError(reason, hint=KILLED_HINT)
        if self._error is not None:
            reason = f"{self._error.message} ({self._error.hint})"
        elif self._loading is not None:
            name, digest = self._loading
            self._options.crashed[digest] = f"{reason} while it loaded this adapter"
            reason = f"{reason} while it loaded {name}, which is not tried again until it changes"
        hint = f" ({KILLED_HINT})" if status == -signal.SIGKILL else ""
        self._say(f"{reason}{hint}; restarting it")
        self._options.starts += 1


def ending_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM, SIGINT, and SIGHUP, which a terminal sends when it is closed; not where ``nohup`` has that ignored."""
    hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGINT, *hung_up)


@contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """A socket that listens at ``address``; a Unix socket is for this user alone, and removed at the end.

    Raises:
        MachineError: the address is in use, or not allowed.
    """
    path, before = address.uds, os.umask(0o177)  # so a Unix socket has mode 0600 from its first moment
    try:
        if path is None:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listener = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
        else:
            with ExitStack() as opened:
                listener = opened.enter_context(socket.socket(socket.AF_UNIX))
                if path.is_socket() and listener.connect_ex(str(path)):
                    path.unlink()  # of a server that was killed
                listener.bind(str(path))
                listener.listen(BACKLOG)
                opened.pop_all()
    except OSError as error:
        asks = "check for another server there with lora-cli warm --status; "
        raise MachineError(
            f"cannot listen on {address}: {error.strerror or error}",
            hint=f"{asks if error.errno == errno.EADDRINUSE else ''}use --listen for another address",
        ) from error
    finally:
        os.umask(before)
    with listener:
        yield listener
    if path is not None:
        path.unlink(missing_ok=True)
