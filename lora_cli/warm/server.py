"""The one process that holds model and adapters, behind HTTP: ``python -m lora_cli.warm.server``.

``supervisor`` starts it with a listening socket and a connection, over which it gets its ``ServerOptions`` and tells
what the next process has to know when this one dies.
"""

import asyncio
import faulthandler
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import uvicorn

from lora_cli.errors import LoraCliError
from lora_cli.finding import Deployment
from lora_cli.isolation import Isolation, Setup, end_with_parent
from lora_cli.redaction import log_to_stderr
from lora_cli.store import InUse, Store
from lora_cli.warm.adapters import Adapters
from lora_cli.warm.api import Api
from lora_cli.warm.metrics import Metrics
from lora_cli.warm.supervisor import ServerOptions
from lora_cli.warm.worker import Worker

MOST_REQUESTS = 1024
"""Requests at once; uvicorn answers others with 503."""

IDLE_S, GRACE_S = 30, 5
"""Seconds that a connection may be idle, and that requests may take after a stop."""


class _Server(uvicorn.Server):
    """uvicorn, which does not raise the signal that ended it again."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End, gracefully."""
        self.should_exit = True


async def _serve(options: ServerOptions, listener: socket.socket, hold: InUse, tell: Callable[..., None]) -> None:
    """Serve until SIGTERM; ``tell`` tells the supervisor."""
    limit = Deployment(max_lora_rank=options.plan.max_lora_rank or None)
    setup = Setup(options.settings, options.plan.base, "", limit, options.roots, options.log_level)
    isolation = Isolation(setup, hold)
    adapters = Adapters(options.requests.values(), isolation, options.crashed, Metrics(options.starts), tell)
    api = Api(adapters, options)
    config = uvicorn.Config(
        api.app(),
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        limit_concurrency=MOST_REQUESTS,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)

    async def start() -> None:
        try:
            worker = await asyncio.to_thread(Worker, options.plan)
        except LoraCliError as error:
            tell("failed", error.exit_code, error.message, error.hint)
            server.should_exit = True
            return
        adapters.worker.set_result(worker)
        tell("started", list(worker.notes))
        await adapters.load_first(options.plan.max_cpu_loras)
        api.ready = True
        states = list(adapters)
        failed = [one.failure for one in states if one.failure is not None]
        problems = [f"{why.name}: failed at {why.stage}: {why.error}" for why in failed]
        tell("ready", sum(one.proved for one in states), len(states), problems)

    starting = asyncio.create_task(start())
    await server.serve(sockets=[listener])
    starting.cancel()
    isolation.close()  # a child that is held up inside a library does not see that its parent ends


def main() -> None:
    """The process. Its arguments are the descriptors of the listening socket and of the connection."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    connection: Connection[Any, Any] = Connection(int(sys.argv[2]))
    options: ServerOptions = connection.recv()
    threading.Thread(target=end_with_parent, args=(connection.fileno(),), daemon=True).start()
    faulthandler.enable()
    os.environ["HF_HUB_OFFLINE"] = "1"
    log_to_stderr(options.log_level, "%(asctime)s %(levelname)s %(message)s")
    sending = threading.Lock()

    def tell(*event: object) -> None:
        with sending:
            connection.send_bytes(json.dumps(event).encode())

    with InUse(Store(options.settings.cache_dir)) as hold:
        # Not asyncio.run: that waits for threads, which may still load the base or an adapter.
        asyncio.new_event_loop().run_until_complete(_serve(options, listener, hold, tell))
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
