"""The warm process's own life: it reads requests, and answers each when it is done, loads next to what is loaded."""

import faulthandler
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

from lora_cli.errors import LoraCliError
from lora_cli.runtime.generation import generate
from lora_cli.runtime.messages import CompareGreedy, Drop, Generate, Load, Prefetch, Probe, QueryTiers, Stage
from lora_cli.runtime.parent_connection import ParentConnection, Send
from lora_cli.runtime.worker import Worker

LOADERS = 2
"""Adapters that are read at once; what is loaded already never waits for them."""

SWITCH_S = 0.0005
"""A thread that has Python to itself gives it up after so long (5 ms else): a request is a chain of such waits."""


def main(descriptor: int) -> None:
    """The child's whole life: build a worker for the plan that comes first, then answer until the parent hangs up."""
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
        ThreadPoolExecutor(LOADERS, "load") as loads,
        ThreadPoolExecutor(1, "serve") as serves,
        ThreadPoolExecutor(1, "look") as looks,
        ThreadPoolExecutor(1, "complete") as completes,
    ):
        for request, send in requests:
            if isinstance(request, QueryTiers | Drop):
                pool = looks
            elif isinstance(request, Generate):
                pool = completes
            elif isinstance(request, Probe | CompareGreedy) and worker.is_resident(request.lora):
                pool = serves
            else:
                pool = loads
            pool.submit(_handle, worker, request, send)


def _handle(worker: Worker, request: object, send: Send) -> None:
    """Answer one request. What no one foresaw ends this process, and the parent says why and starts another."""
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
        case QueryTiers(with_history):
            answer = worker.tier_contents(with_history=with_history)
        case CompareGreedy():
            answer = worker.answer(request, on_stage)
        case Generate():
            answer = generate(worker, request, send)
        case _:
            raise AssertionError(request)
    return answer
