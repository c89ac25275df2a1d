"""Beyond one machine: the same functions as tasks of a Ray cluster, whose nodes may come and go.

Batches are in flight, results come in order, and what dies with a node is done again.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, TypeVar

from lora_cli.errors import MachineError, MissingExtra, Unreachable
from lora_cli.fetching.batch import Outcome, fetch_all
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms, each
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.store import Store

Item = TypeVar("Item")
Done = TypeVar("Done")

TOGETHER = 16
"""Adapters of one task: so many that a task is worth its sending, so few that its loss is soon made up for."""

AHEAD = 4
"""Tasks for each processor that are on their way: results wait in the order of the adapters, so memory is bounded."""

CONNECT_S = 10.0

TRIES = 3
"""So often a task is done again that died with its worker or its node."""


def fetch_fleet(address: str, requests: Sequence[Request], settings: Settings) -> Iterator[Outcome]:
    """As ``fetch_all``, on the cluster at ``address``. Raises as ``joined``."""
    with joined(address, "fetch") as processors:
        yield from spread(_fetch, requests, processors, settings, lost=_unfetched)


def _fetch(batch: Sequence[Request], settings: Settings) -> list[Outcome]:
    return list(fetch_all(batch, Store(settings.cache_dir), settings))


def _unfetched(request: Request, reason: str) -> Outcome:
    error = MachineError(f"{request.name}: {reason}", hint="fetch it alone, and check that node's memory and disk")
    return Outcome(request, None, error, 0.0)


def judge_fleet(address: str, items: Sequence[Request], terms: Terms) -> Iterator[Result]:
    """As ``each`` by ``judge_one``, on the cluster at ``address``. Raises as ``joined``."""
    with joined(address, "validate") as processors:
        yield from spread(_judge, items, processors, terms, lost=_unjudged)


def _judge(batch: Sequence[Request], terms: Terms) -> list[Result]:
    return list(each(batch, judge_one, terms))


def _unjudged(item: Request, reason: str) -> Result:
    error = MachineError(f"{item.name}: {reason}", hint="validate it alone, and check that node's memory")
    return replace(Result.of(item), error=error)


@contextmanager
def joined(address: str, command: str) -> Iterator[int]:
    """The cluster at ``address`` (``auto``, or HOST:PORT of its head), for the block; gives its number of processors.

    Raises:
        MissingExtra: Ray is not installed.
        Unreachable: there is no cluster.
    """
    if find_spec("ray") is None:
        raise MissingExtra(f"{command} --ray", "ray", "ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no telemetry, not a library's either
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    _check_listens(address)
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unreachable(f"there is no Ray cluster at {address}: {said}", hint="see ray status") from error
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()


def _check_listens(address: str) -> None:
    """Raises ``Unreachable`` if nothing listens there: Ray itself finds that out after minutes, and not quietly."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S):
            pass
    except (OSError, OverflowError) as error:
        raise Unreachable(f"there is no Ray cluster at {address}: {error}", hint="see ray status") from error


def spread(
    call: Callable[..., list[Done]],
    items: Sequence[Item],
    processors: int,
    *shared: Any,
    lost: Callable[[Item, str], Done],
) -> Iterator[Done]:
    """``call(batch, *shared)`` for batches of ``items``, each result in the order of the items.

    A batch whose worker or node died is done again elsewhere, and if that does not help item by item; ``lost`` makes
    the result of one that no node could process, with the reason. What ``call`` raises itself is raised.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(max_retries=TRIES)(call)
    values = [ray.put(one) for one in shared]
    waiting: deque[tuple[Sequence[Item], Any]] = deque()
    batches = iter([items[first : first + TOGETHER] for first in range(0, len(items), TOGETHER)])

    def sent() -> bool:
        batch = next(batches, None)
        if batch is not None:
            waiting.append((batch, task.remote(batch, *values)))
        return batch is not None

    while len(waiting) < processors * AHEAD and sent():
        pass
    while waiting:
        batch, reference = waiting.popleft()
        sent()
        try:
            yield from ray.get(reference)
        except RayTaskError:
            raise
        except RayError:
            yield from (_alone(task, item, values, lost) for item in batch)


def _alone(task: Any, item: Item, values: Sequence[Any], lost: Callable[[Item, str], Done]) -> Done:
    """One item of a batch that was lost."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        result: Done = ray.get(task.remote([item], *values))[0]
    except RayTaskError:
        raise
    except RayError as error:
        return lost(item, f"every worker that ran it died: {type(error).__name__}")
    return result
