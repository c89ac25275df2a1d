"""The server's life: it listens, starts the warm process, looks after it, and ends in order."""

import asyncio
import errno
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from lora_cli.core.log import logger
from lora_cli.endpoint.address import Address
from lora_cli.errors import LoraCliError, MachineError
from lora_cli.serving.api import Service, make_app
from lora_cli.serving.connection import IDLE_S, protocol, room_for_files
from lora_cli.serving.history import save_past
from lora_cli.serving.metrics import metrics_text
from lora_cli.serving.signals import ending_signals
from lora_cli.store.disk import replace_file

BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted."""

ACCEPTED_AT_ONCE = 128
"""So many are accepted before those that were are looked at: a flood of them does not hide who asks something."""

GRACE_S = 5
"""So long completions under way may take when the server is told to end."""

SWITCH_S = 0.0005
"""A thread that judges an adapter gives Python up after so long (5 ms else) for the requests."""

SUPERVISED_S, METRICS_S, HISTORY_S = 1.0, 10.0, 30.0
LONGEST_S = 60.0
"""So long something that fails is not tried again at most."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Files:
    """What a server writes: ``ready`` while it is ready, ``metrics`` now and then, ``history`` for its next life."""

    ready: Path | None = None
    metrics: Path | None = None
    history: Path | None = None


def serve(service: Service, address: Address, files: Files, say: Callable[[str], None]) -> None:
    """Listen at ``address`` until a signal (``ending_signals``) or a client says stop.

    Raises:
        LoraCliError: what keeps the warm process from standing, or the address from being listened at.
    """
    sys.setswitchinterval(SWITCH_S)
    with listening(address) as listener:
        life = _Life(replace(service, began=time.time()), files, say)
        say(f"listening at {address}")
        asyncio.run(life.run(listener))
    if life.error is not None:
        raise life.error


class _Life:
    """One run of the server."""

    def __init__(self, service: Service, files: Files, say: Callable[[str], None]) -> None:
        self.host, self.files, self._say = service.host, files, say
        self.error: LoraCliError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            make_app(replace(service, stop=self.stop)),
            http=protocol(room_for_files()),
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=int(IDLE_S),
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _Server(config)

    async def run(self, listener: socket.socket) -> None:
        """Serve, and end in order whatever happens."""
        self._loop = asyncio.get_running_loop()
        self.host.stopping = self._loop.create_future()
        ends = ending_signals()
        for number in ends:
            self._loop.add_signal_handler(number, self.stop)
        starting = threading.Thread(target=self._start, name="start", daemon=True)
        starting.start()
        chores = [
            asyncio.create_task(repeat("supervise", SUPERVISED_S, self.host.supervise)),
            asyncio.create_task(repeat("metrics", METRICS_S, self._write_metrics)),
            asyncio.create_task(repeat("history", HISTORY_S, self._keep_history)),
        ]
        try:
            await self._server.serve(sockets=[listener])
        finally:
            # A second signal, which loop.close() would let through, does not cut the end short.
            for number in ends:
                self._loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
            for chore in chores:
                chore.cancel()
            await asyncio.to_thread(self._end)

    def stop(self) -> None:
        """End soon; from any thread. Nothing more is judged, and who waits for that is told."""
        self._server.should_exit = True
        self.host.aside.submit(self.host.stop_loading)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told_to_stop)

    def _told_to_stop(self) -> None:
        if not self.host.stopping.done():
            self.host.stopping.set_result(None)

    def _start(self) -> None:
        try:
            ready = self.host.start()
            for note in ready.notes:
                self._say(note)
            self.host.wait_for_first()
            self._told_ready()
        except LoraCliError as error:
            if not self._server.should_exit:
                self.error = error
                self.stop()

    def _told_ready(self) -> None:
        entries = self.host.entries.all()
        proved = sum(self.host.is_proved(entry) for entry in entries)
        self._say(f"ready: {proved} of {len(entries)} adapters loaded and proved")
        for entry in entries:
            failure = self.host.failures.last(entry.item.name)
            if failure is not None:
                self._say(f"{entry.item.name}: failed at {failure.report.stage}: {failure.report.error}")
        if self.files.ready is not None:
            self._write(self.files.ready, json.dumps({"pid": os.getpid(), "proved": proved}) + "\n")

    def _end(self) -> None:
        if self.files.ready is not None:
            with suppress(OSError):
                self.files.ready.unlink(missing_ok=True)
        self._keep_history()
        self._write_metrics()
        self.host.close()
        self._say("stopped")

    def _write_metrics(self) -> None:
        if self.files.metrics is not None and self.host.process is not None:
            self._write(self.files.metrics, metrics_text(self.host))

    def _keep_history(self) -> None:
        """Request rates to disk, and to the child that would take this one's place."""
        past = self.host.remember()
        if past is not None and self.files.history is not None:
            try:
                save_past(self.files.history, past)
            except OSError as error:
                log.info("request rates are not kept: %s", error)

    def _write(self, file: Path, text: str) -> None:
        try:
            replace_file(file, text.encode(), durable=False)
        except OSError as error:
            self._say(f"{file} cannot be written: {error.strerror}")


async def repeat(name: str, every_s: float, do: Callable[[], None]) -> None:
    """Do something every ``every_s`` seconds, in a thread; after each failure in a row it waits twice as long."""
    failures = 0
    while True:
        await asyncio.sleep(max(every_s, min(every_s * 2.0 ** min(failures, 10), LONGEST_S)))
        try:
            await asyncio.to_thread(do)
            failures = 0
        except LoraCliError as error:
            failures += 1
            log.warning("%s: %s", name, error.message)


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: it would raise what it caught once more at its end."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. asyncio gives the kernel its own number as the length of the queue: that is set right."""
        await super().startup(sockets)
        for one in sockets or []:
            one.listen(BACKLOG)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


@contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """A socket that listens at ``address``; a Unix one is for this user alone, and gone at the end.

    Raises:
        MachineError: somebody else listens there, or may not.
    """
    try:
        listener = _unix(address.uds) if address.uds is not None else _tcp(address)
    except OSError as error:
        asks = "does another server run there? lora-cli warm --status asks it; "
        raise MachineError(
            f"{address} cannot be listened at: {error.strerror or error}",
            hint=f"{asks if error.errno == errno.EADDRINUSE else ''}--port and --uds name another address",
        ) from error
    inode = address.uds.stat().st_ino if address.uds is not None else 0
    try:
        with listener:
            yield listener
    finally:
        if address.uds is not None:
            with suppress(OSError):
                if address.uds.stat().st_ino == inode:
                    address.uds.unlink()


def _tcp(address: Address) -> socket.socket:
    family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    # With its protocol named, asyncio sends small pieces of a stream at once: TCP_NODELAY.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _unix(path: Path) -> socket.socket:
    """A socket of mode 0600 from its first moment; one that a dead server left is replaced."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as ours:
        try:
            ours.connect(str(path))
        except OSError:
            return False
    return True
