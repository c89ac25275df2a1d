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
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lora_cli.endpoint.address import Address
from lora_cli.endpoint.client import Endpoint
from lora_cli.errors import ERRORS, LoraCliError, MachineError
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


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the server's process is started with.

    ``requests`` are the adapters by name, each with whether a client registered it; clients may load what is below
    ``roots``. ``hosts`` are the accepted Host headers (None: all), ``token`` the required one ("": none). ``starts``
    counts the processes, and ``crashed`` has, by digest, why one died while it loaded an adapter.
    """

    plan: Plan
    settings: Settings
    requests: Mapping[str, tuple[Request, bool]]
    base_name: str
    roots: tuple[Path, ...] = ()
    token: str = ""
    hosts: frozenset[str] | None = None
    ready_file: Path | None = None
    metrics_file: Path | None = None
    log_level: str = "WARNING"
    starts: int = 1
    crashed: Mapping[str, str] = field(default_factory=dict)


class Supervisor:
    """Runs the server at ``address`` until ``stop``. ``say`` tells the user what happens."""

    def __init__(self, options: ServerOptions, address: Address, say: Callable[[str], None]) -> None:
        self._options, self._address, self._say = options, address, say
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
                _remove_file(self._options.ready_file)
                if self._stopping.is_set() or (status == 0 and self._error is None):
                    break
                if not self._started and self._loading is None:
                    raise self._error or MachineError(f"the server's process {_cause(status)}", hint=KILLED_HINT)
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
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
                    [sys.executable, "-P", "-m", "lora_cli.warm.server", str(listener.fileno()), str(theirs.fileno())],
                    pass_fds=[listener.fileno(), theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), _ROOT])},
                    start_new_session=True,  # signals of a terminal are for this process
                )
            if self._stopping.is_set():
                self._process.terminate()
            self._error, self._loading = None, None
            with suppress(EOFError, OSError):
                ours.send(self._options)
                self._listen(ours)
            return self._process.wait()

    def _listen(self, process: "Connection[Any, Any]") -> None:
        while True:
            event, *said = json.loads(process.recv_bytes())
            requests = dict(self._options.requests)
            if event == "loading":
                self._loading = said[0], said[1]
            elif event == "loaded":
                self._loading = None
            elif event == "registered":
                name, source, pinned = said
                requests[name] = Request(name, parse(source, is_path=lambda _: True), pinned=pinned), True
            elif event == "removed":
                requests.pop(said[0], None)
            elif event == "started":
                self._started = True
                for note in said[0] if self._options.starts == 1 else ():
                    self._say(note)
            elif event == "failed":
                self._error = ERRORS.get(said[0], LoraCliError)(said[1], hint=said[2])
            elif event == "ready":
                self._ready(*said)
            self._options = replace(self._options, requests=requests)

    def _ready(self, proved: int, adapters: int, problems: list[str]) -> None:
        self._say(f"ready: {proved} of {adapters} adapters loaded and proved")
        for problem in problems:
            self._say(problem)
        if (file := self._options.ready_file) is not None:
            try:
                write_file(file, json.dumps({"pid": os.getpid(), "proved": proved}) + "\n")
            except OSError as error:
                self._say(f"{file} cannot be written: {error.strerror}")

    def _after_crash(self, status: int) -> None:
        """Say why the process died, and remember the adapter that it was loading."""
        reason, crashed = f"the server's process {_cause(status)}", dict(self._options.crashed)
        if self._error is not None:
            reason = f"{self._error.message} ({self._error.hint})"
        elif self._loading is not None:
            name, digest = self._loading
            crashed[digest] = f"{reason} while it loaded this adapter"
            reason = f"{reason} while it loaded {name}, which is not tried again until it changes"
        hint = f" ({KILLED_HINT})" if status == -signal.SIGKILL else ""
        self._say(f"{reason}{hint}; restarting it")
        self._options = replace(self._options, crashed=crashed, starts=self._options.starts + 1)


_ROOT = str(Path(__file__).parents[2])


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
        with ExitStack() as opened:
            if path is None:
                family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
                # With its protocol named, asyncio sends small pieces of a stream at once: TCP_NODELAY.
                listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
            else:
                if path.is_socket() and not Endpoint(address).listens():
                    path.unlink()  # of a server that was killed
                listener = opened.enter_context(socket.socket(socket.AF_UNIX))
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


def _remove_file(file: Path | None) -> None:
    with suppress(OSError):
        if file is not None and file.is_file():
            file.unlink()


def _cause(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
