"""The warm process: it reads requests, and answers each when it is done. Loads run next to requests."""

import faulthandler
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

from lora_cli.errors import LoraCliError
from lora_cli.runtime.generation import generate
from lora_cli.runtime.messages import (
    MAX_BATCH_SIZE,
    CompareGreedy,
    Drop,
    Generate,
    Load,
    Prefetch,
    Probe,
    QueryTiers,
    Stage,
)
from lora_cli.runtime.parent_connection import ParentConnection, Send
from lora_cli.runtime.worker import Worker

LOADERS = 2
"""Adapters loaded at once; requests for loaded adapters do not wait for them."""

SWITCH_S = 0.0005
"""The interpreter's switch interval (5 ms by default): a request is a chain of such waits."""


def main(descriptor: int) -> None:
    """Build a worker for the plan, the first message; then handle requests until the parent closes its side.

    Each kind of request has its own threads; ``DeviceLock`` is the one queue before the device.
    """
    sys.setswitchinterval(SWITCH_S)
    faulthandler.enable()
    os.environ["HF_HUB_OFFLINE"] = "1"
    requests = ParentConnection(descriptor).requests()
    plan, send = next(requests)
    try:
        worker = Worker(plan)
    except LoraCliError as error:
        send(error)
        return
    send(worker.ready())
    with (
        ThreadPoolExecutor(LOADERS, "load") as load_threads,
        ThreadPoolExecutor(1, "probe") as probe_thread,
        ThreadPoolExecutor(1, "query") as query_thread,
        ThreadPoolExecutor(MAX_BATCH_SIZE, "generate") as generate_threads,
    ):
        for request, send in requests:
            if isinstance(request, QueryTiers | Drop):
                pool = query_thread
            elif isinstance(request, Generate):
                pool = generate_threads
            elif isinstance(request, Probe | CompareGreedy) and worker.gpu_tier.is_loaded(request.lora.key):
                pool = probe_thread
            else:
                pool = load_threads
            pool.submit(_handle, worker, request, send)


def _handle(worker: Worker, request: object, send: Send) -> None:
    """Handle one request. An unexpected exception ends this process; the parent reports it and starts another."""
    try:
        send(_answer(worker, request, send))
    except LoraCliError as error:
        send(error)
    except BaseException:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _answer(worker: Worker, request: object, send: Send) -> object:
    def on_stage(stage: str) -> None:
        send(Stage(stage))

    answer: object
    match request:
        case Load(lora):
            answer = worker.load(lora, on_stage)
        case Probe(lora):
            answer = worker.serve(lora, on_stage)
        case Prefetch(lora):
            answer = worker.prefetch(lora, on_stage)
        case Drop(key):
            answer = worker.drop(key)
        case QueryTiers():
            answer = worker.tier_contents()
        case CompareGreedy():
            answer = worker.answer(request, on_stage)
        case Generate():
            answer = generate(worker, request, send)
        case _:
            raise AssertionError(request)
    return answer
