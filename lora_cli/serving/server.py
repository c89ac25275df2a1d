"""The server's life: it listens, starts and supervises the warm process, and shuts down cleanly."""

import asyncio
import errno
import gc
import json
import logging
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from lora_cli.endpoint.address import Address
from lora_cli.errors import LoraCliError, MachineError
from lora_cli.redaction import logger
from lora_cli.serving.api import Api
from lora_cli.serving.connection import IDLE_S, connection_limits, protocol
from lora_cli.serving.middleware import PROBES
from lora_cli.serving.signals import ending_signals
from lora_cli.store.disk import replace_file

BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted."""

ACCEPTED_AT_ONCE = 128
"""Connections accepted before the accepted ones are served: a flood does not block requests."""

OBJECTS_PER_COLLECTION = 10_000
"""After so many new objects cycles are searched for: the bound of short commands (``cli.main``) lets the tasks of
clients that went away take some hundred megabytes."""

GRACE_S = 5
"""Seconds that completions under way may take after a stop."""

SWITCH_S = 0.0005
"""The interpreter's switch interval (5 ms by default), so that other threads do not delay requests."""

SUPERVISED_S, READY_S, METRICS_S = 1.0, 0.2, 10.0

LONGEST_S = 60.0
"""The longest wait between attempts of a periodic task that fails."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """Files that a server writes: ``ready`` while it is ready, and ``metrics``."""

    ready: Path | None = None
    metrics: Path | None = None


def serve(api: Api, address: Address, files: OutputFiles, say: Callable[[str], None]) -> None:
    """Serve at ``address`` until a signal (``ending_signals``) or ``/v1/stop``.

    Raises:
        LoraCliError: the warm process cannot start, or the server cannot listen at the address.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    with listening(address) as listener:
        life = _ServerRun(api, files, say)
        say(f"listening on {address}")
        asyncio.run(life.run(listener))
    if life.error is not None:
        raise life.error


class _ServerRun:
    """One run of the server."""

    def __init__(self, api: Api, files: OutputFiles, say: Callable[[str], None]) -> None:
        self.manager, self.files, self._say = api.manager, files, say
        self._metrics_text = api.metrics_text
        self.error: LoraCliError | None = None
        self._unwritten: set[Path] = set()
        access = access_log()
        config = uvicorn.Config(
            api.app(),
            http=protocol(connection_limits()),
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            log_config=None,
            access_log=access,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=int(IDLE_S),
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _Server(config)

    async def run(self, listener: socket.socket) -> None:
        """Serve, and shut down in order."""
        loop, ends = asyncio.get_running_loop(), ending_signals()
        for number in ends:
            loop.add_signal_handler(number, self.manager.stop)
        tasks = [
            asyncio.create_task(self._exit_on_stop()),
            asyncio.create_task(self._start()),
            asyncio.create_task(repeat("supervise", SUPERVISED_S, self.manager.supervise)),
            asyncio.create_task(repeat("ready file", READY_S, self._update_ready_file)),
            asyncio.create_task(repeat("metrics", METRICS_S, self._write_metrics)),
        ]
        try:
            await self._server.serve(sockets=[listener])
        finally:
            # A second signal must not interrupt the shutdown; loop.close() would restore its handler.
            for number in ends:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
            for task in tasks:
                task.cancel()
            await self._end()

    async def _exit_on_stop(self) -> None:
        await self.manager.stopping.wait()
        self._server.should_exit = True

    async def _start(self) -> None:
        try:
            ready = await self.manager.start()
            for note in ready.notes:
                self._say(note)
            await self.manager.wait_for_first()
            self._report_ready()
            await self._update_ready_file()
        except LoraCliError as error:
            if not self.manager.stopping.is_set():
                self.error = error
                self.manager.stop()

    def _report_ready(self) -> None:
        proved = sum(map(self.manager.is_proved, self.manager.adapters))
        self._say(f"ready: {proved} of {len(self.manager.adapters)} adapters loaded and proved")
        for adapter in self.manager.adapters:
            if adapter.failure is not None:
                self._say(f"{adapter.item.name}: failed at {adapter.failure.stage}: {adapter.failure.error}")

    async def _update_ready_file(self) -> None:
        """Create or remove the ready file: it exists while the server is ready, not while the child restarts."""
        file, is_ready = self.files.ready, self.manager.ready
        if file is None or _exists(file) == is_ready:
            return
        if is_ready:
            proved = sum(map(self.manager.is_proved, self.manager.adapters))
            self._write(file, json.dumps({"pid": os.getpid(), "proved": proved}) + "\n")
        else:
            _remove_file(file)

    async def _end(self) -> None:
        if self.files.ready is not None:
            _remove_file(self.files.ready)
        await self._write_metrics()
        await self.manager.close()
        self._say("stopped")

    async def _write_metrics(self) -> None:
        if self.files.metrics is not None and self.manager.process is not None:
            await asyncio.to_thread(self._write, self.files.metrics, self._metrics_text())

    def _write(self, file: Path, text: str) -> None:
        try:
            replace_file(file, text.encode(), durable=False)
            self._unwritten.discard(file)
        except OSError as error:
            if file not in self._unwritten:
                self._say(f"{file} cannot be written: {error.strerror}")
            self._unwritten.add(file)


async def repeat(name: str, every_s: float, do: Callable[[], Awaitable[None]]) -> None:
    """Call ``do`` every ``every_s`` seconds; each failure in a row doubles the wait."""
    failures = 0
    while True:
        await asyncio.sleep(max(every_s, min(every_s * 2.0 ** min(failures, 10), LONGEST_S)))
        try:
            await do()
            failures = 0
        except LoraCliError as error:
            failures += 1
            log.warning("%s: %s", name, error.message)


def access_log() -> bool:
    """Whether requests are logged, as those of lora-cli's own records that are of level info.

    Probes that were answered with 200 are not: they would bury the rest.
    """
    ours, requests = logging.getLogger("lora_cli"), logger("uvicorn.access")
    requests.handlers, requests.propagate = ours.handlers, False
    requests.setLevel(logging.INFO)
    requests.addFilter(_is_no_probe)
    return ours.isEnabledFor(logging.INFO)


def _is_no_probe(record: logging.LogRecord) -> bool:
    return re.search(rf'"GET ({"|".join(PROBES)}) HTTP/1.1" 200$', record.getMessage()) is None


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: it would raise a caught signal again at its end."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen with ``BACKLOG``: asyncio sets a shorter accept queue."""
        await super().startup(sockets)
        for one in sockets or []:
            one.listen(BACKLOG)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Do nothing."""
        yield


@contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """A socket that listens at ``address``; a Unix socket is for this user alone, and removed at the end.

    Raises:
        MachineError: the address is in use, or not allowed.
    """
    with ExitStack() as opened:
        try:
            listener, place = _socket(address)
            opened.enter_context(listener)
            before = os.umask(0o177)  # so a Unix one has mode 0600 from its first moment
            try:
                listener.bind(place)
            finally:
                os.umask(before)
            listener.listen(BACKLOG)
        except OSError as error:
            asks = "check for another server there with lora-cli warm --status; "
            raise MachineError(
                f"cannot listen on {address}: {error.strerror or error}",
                hint=f"{asks if error.errno == errno.EADDRINUSE else ''}use --port or --uds for another address",
            ) from error
        if address.uds is not None:
            opened.callback(_remove, address.uds, address.uds.stat().st_ino)
        yield listener


def _socket(address: Address) -> tuple[socket.socket, Any]:
    """A socket for ``address``, and the address to bind; the Unix socket of a dead server is removed."""
    path = address.uds
    if path is not None:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), str(path)
    family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    # With its protocol named, asyncio sends small pieces of a stream at once: TCP_NODELAY.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return listener, place


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:
        return False


def _remove_file(ready: Path) -> None:
    with suppress(OSError):
        if ready.is_file():
            ready.unlink()


def _remove(path: Path, inode: int) -> None:
    with suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as ours:
        try:
            ours.connect(str(path))
        except OSError:
            return False
    return True
