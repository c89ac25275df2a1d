"""Have an adapter loaded and proved for a request, and know where it was found."""

import asyncio
import time
from concurrent.futures import Future
from typing import Any, TypeVar

from lora_cli.errors import Unreachable
from lora_cli.runtime.messages import Job
from lora_cli.serving.answers import error_of
from lora_cli.serving.entry import Entry
from lora_cli.serving.host import Host

T = TypeVar("T")


async def had(host: Host, entry: Entry) -> tuple[str, float]:
    """Have it proved. Where it came from, and in how many milliseconds; "" and 0 when it was proved before.

    Raises:
        LoraCliError: it cannot be loaded.
    """
    if host.is_proved(entry):
        return "", 0.0
    began = time.perf_counter()
    is_new = entry.job is None
    report = await wait(host, host.have(entry.item.name))
    if report.error:
        raise error_of(report)
    return "remote" if is_new and entry.remote else report.tier, (time.perf_counter() - began) * 1e3


async def taken_away(host: Host, entry: Entry, job: Job) -> bool:
    """Whether ``job``'s files went from this disk since it was proved (``cache rm`` takes what is in use, too).

    It is then brought from its origin by whoever has it next.
    """
    if await wait(host, host.aside.submit(job.directory.is_dir)):
        return False
    host.bring_anew(entry, job)
    return True


async def wait(host: Host, future: "Future[T]") -> T:
    """Its result. A client that goes away does not cancel what others may wait for.

    Raises:
        Unreachable: the server is told to end meanwhile.
    """
    waited = asyncio.wrap_future(future)
    waited.add_done_callback(_looked_at)
    either: set[asyncio.Future[Any]] = {waited, host.stopping}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not waited.done():
        raise Unreachable("the server is stopping")
    return waited.result()


def _looked_at(future: "asyncio.Future[T]") -> None:
    """Nobody may be there any more to hear of its error, which is no reason to log it."""
    if not future.cancelled():
        future.exception()
