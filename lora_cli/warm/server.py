"""The one process that holds model and adapters, behind HTTP: ``python -m lora_cli.warm.server``.

``supervisor`` starts it with a listening socket and a connection, over which it gets its ``ServerOptions`` and tells
what the next process has to know when this one dies.
"""

import asyncio
import faulthandler
import json
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import uvicorn

from lora_cli.errors import LoraCliError
from lora_cli.finding import Deployment
from lora_cli.isolation import Isolation, Setup, end_with_parent
from lora_cli.redaction import log_to_stderr, logger
from lora_cli.store import Store
from lora_cli.store.disk import replace_file
from lora_cli.store.locks import InUse
from lora_cli.warm.adapters import Adapters
from lora_cli.warm.api import Api
from lora_cli.warm.metrics import Metrics
from lora_cli.warm.supervisor import ServerOptions
from lora_cli.warm.worker import Worker

MOST_REQUESTS = 1024
"""Requests at once; uvicorn answers others with 503."""

IDLE_S, GRACE_S, METRICS_S = 30, 5, 10.0
"""Seconds that a connection may be idle, that requests may take after a stop, and between two writes of metrics."""

LOG_FORM = "%(asctime)s %(levelname)s %(message)s"
QUIET_PATHS = re.compile(r'"GET /(health|ready|metrics) HTTP/1.1" 200$')
"""Probes that were answered are not logged: they would bury the rest."""

log = logger(__name__)


class _Run:
    """One run of the server."""

    def __init__(self, options: ServerOptions, tell: Callable[..., None]) -> None:
        self.options, self.tell = options, tell
        self.error: LoraCliError | None = None

    async def serve(self, listener: socket.socket, hold: InUse) -> None:
        """Serve until SIGTERM."""
        options = self.options
        setup = Setup(
            options.settings,
            options.plan.base,
            deployment=Deployment(max_lora_rank=options.plan.max_lora_rank or None),
            roots=options.roots,
            log_level=options.log_level,
        )
        isolation = Isolation(setup, hold)
        isolation.start()
        metrics = Metrics(options.starts)
        adapters = Adapters(options.requests.values(), isolation, options.crashed, metrics, self.tell)
        api = Api(adapters, options.settings, options.base_name, options.roots, options.starts)
        self._api = api
        config = uvicorn.Config(
            api.app(options.token, options.hosts),
            http="h11",
            ws="none",
            log_config=None,
            lifespan="off",
            server_header=False,
            limit_concurrency=MOST_REQUESTS,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _Server(config, adapters.stopping)
        tasks = [asyncio.create_task(self._start()), asyncio.create_task(_every(METRICS_S, self._write_metrics))]
        try:
            await self._server.serve(sockets=[listener])
        finally:
            for task in tasks:
                task.cancel()
            await self._write_metrics()
            adapters.close()
            isolation.close()

    def stop(self) -> None:
        """End the server."""
        self._server.handle_exit(0, None)

    async def _start(self) -> None:
        adapters, plan = self._api.adapters, self.options.plan
        try:
            worker = await asyncio.to_thread(Worker, plan)
        except LoraCliError as error:
            self.error = error
            self.stop()
            return
        adapters.worker.set_result(worker)
        self.tell("started", list(worker.notes))
        await adapters.load_first(plan.max_cpu_loras)
        self._api.ready = True
        failed = [(one.request.name, one.failure) for one in adapters if one.failure is not None]
        problems = [f"{name}: failed at {why.stage}: {why.error}" for name, why in failed]
        self.tell("ready", sum(one.proved for one in adapters), len(adapters), problems)

    async def _write_metrics(self) -> None:
        if (file := self.options.metrics_file) is not None:
            with suppress(OSError):
                await asyncio.to_thread(replace_file, file, self._api.metrics_text().encode(), durable=False)


class _Server(uvicorn.Server):
    """uvicorn, which lets nobody wait for an adapter when it is asked to end."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End, gracefully; a signal is not raised again."""
        self.should_exit = True
        self._stopping.set()


async def _every(seconds: float, call: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await call()


def main() -> None:
    """The process. Its arguments are the descriptors of the listening socket and of the connection."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    connection: Connection[Any, Any] = Connection(int(sys.argv[2]))
    options: ServerOptions = connection.recv()
    threading.Thread(target=end_with_parent, args=(connection.fileno(),), daemon=True).start()
    faulthandler.enable()
    os.environ["HF_HUB_OFFLINE"] = "1"
    log_to_stderr(options.log_level, LOG_FORM)
    requests = logger("uvicorn.access")
    requests.handlers, requests.propagate = logging.getLogger("lora_cli").handlers, False
    requests.setLevel(options.log_level)
    requests.addFilter(lambda record: QUIET_PATHS.search(record.getMessage()) is None)
    sending = threading.Lock()

    def tell(*event: object) -> None:
        with sending:
            connection.send_bytes(json.dumps(event).encode())

    run = _Run(options, tell)
    with InUse(Store(options.settings.cache_dir)) as hold:
        # Not asyncio.run: that waits for threads, which may still load the base or an adapter.
        asyncio.new_event_loop().run_until_complete(run.serve(listener, hold))
        if run.error is not None:
            tell("failed", run.error.exit_code, run.error.message, run.error.hint)
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
