"""The warm process's own life: it hears requests, and answers each when it is done, loads beside what is loaded."""

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from lora_cli.errors import LoraCliError
from lora_cli.runtime.completing import complete
from lora_cli.runtime.completion import Complete
from lora_cli.runtime.plan import Answer, Drop, Failure, Load, Look, Prefetch, ServeOnce, Stage
from lora_cli.runtime.worker import Worker

LOADERS = 2
"""Adapters that are read at once; what is loaded already never waits for them."""

SWITCH_S = 0.0005
"""A thread that has Python to itself gives it up after so long (5 ms else): a request is a chain of such waits."""

Said = Callable[[object], None]


ANSWERS: Mapping[type, Callable[[Worker, Any, Said], object]] = {
    Load: lambda worker, request, say: worker.load(request.job, _stages(say)),
    ServeOnce: lambda worker, request, say: worker.serve(request.job, _stages(say)),
    Prefetch: lambda worker, request, say: worker.prefetch(request.job, _stages(say)),
    Drop: lambda worker, request, _say: worker.drop(request.key),
    Look: lambda worker, request, _say: worker.look(with_history=request.with_history),
    Answer: lambda worker, request, say: worker.answer(request, _stages(say)),
    Complete: complete,
}
"""What is done for each kind of request."""


def _stages(say: Said) -> Callable[[str], None]:
    return lambda stage: say(Stage(stage))


def converse(connection: Connection) -> None:
    """Build a worker for the plan that comes first, then answer requests until the parent is gone."""
    sending = threading.Lock()

    def say(number: int) -> Said:
        def said(answer: object) -> None:
            with sending:
                connection.send((number, answer))

        return said

    number, plan = connection.recv()
    try:
        worker = Worker(plan)
    except LoraCliError as error:
        say(number)(_failure(error))
        return
    say(number)(worker.ready())
    with (
        ThreadPoolExecutor(LOADERS, "load") as loads,
        ThreadPoolExecutor(1, "serve") as serves,
        ThreadPoolExecutor(1, "look") as looks,
        ThreadPoolExecutor(1, "complete") as completes,
    ):
        while True:
            try:
                number, request = connection.recv()
            except EOFError:
                return
            if isinstance(request, Look | Drop):
                pool = looks
            elif isinstance(request, Complete):
                pool = completes
            elif isinstance(request, ServeOnce | Answer) and worker.at_hand(request.job):
                pool = serves
            else:
                pool = loads
            pool.submit(_answered, worker, request, say(number))


def _answered(worker: Worker, request: object, say: Said) -> None:
    """Handle one request. What no one foresaw ends this process, and the parent says why and starts another."""
    try:
        say(_handled(worker, request, say))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _handled(worker: Worker, request: object, say: Said) -> object:
    try:
        return ANSWERS[type(request)](worker, request, say)
    except LoraCliError as error:
        return _failure(error)


def _failure(error: LoraCliError) -> Failure:
    return Failure(error.message, error.hint, error.exit_code)


def main(descriptor: int) -> None:
    """The child's whole life. What a terminal sends is the parent's business: it closes the connection when it goes."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_S)
    faulthandler.enable()
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        converse(Connection(descriptor))
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)
