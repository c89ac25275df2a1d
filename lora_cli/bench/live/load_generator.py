"""The load generator: in an open loop each request is sent at its scheduled time; in a closed loop by a free client.

Responses are streamed, with the time of each chunk.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import httpx2

from lora_cli import parse
from lora_cli.bench.live.requests import PreparedRequest, RequestResult
from lora_cli.endpoint.address import Address
from lora_cli.endpoint.client import body_message, error_message, ssl_context
from lora_cli.errors import FormatError

READ_TIMEOUT_S = 300.0
"""The read timeout of a response."""

LONGEST_S, WARM_UP_S = 3600.0, 30.0
"""How long a whole response may take, and the one to the warm-up request."""

LARGEST_RESPONSE = 64 << 20
BEGINNING = 1 << 16
MOST_TOKENS = 1 << 31
"""A response of the longest prompts and outputs has fewer bytes and tokens."""

KEPT_S = 2.0
"""A connection unused for longer is not used again: uvicorn closes its own after 5 s, perhaps just then."""

LARGEST_EVENT = 1 << 20
LONGEST_ERROR = 300


Clock = Callable[[], float]
"""Seconds since the start of the run."""


class Stream:
    """A parser of a completion's event stream: the chunks' times, the server's token counts, and the error."""

    def __init__(self) -> None:
        self.chunks_s: list[float] = []
        self.prompt_tokens = self.output_tokens = 0
        self.error, self.done = "", False
        self._rest, self._left = b"", LARGEST_RESPONSE

    def feed(self, data: bytes, now_s: float) -> None:
        """Parse server-sent events received at ``now_s``. Raises ``FormatError``."""
        self._left -= len(data)
        if self._left < 0:
            raise FormatError(f"a response has more than {LARGEST_RESPONSE} bytes")
        *whole, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > LARGEST_EVENT:
            raise FormatError(f"an event has more than {LARGEST_EVENT} bytes")
        for event in whole:
            for line in event.split(b"\n"):
                if line.startswith(b"data:"):
                    self._parse_event(line[5:].strip(), now_s)

    def _parse_event(self, data: bytes, now_s: float) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        fields = parse.mapping(parse.json_value(data, "an event"), "an event")
        if fields.get("error"):
            self.error = self.error or error_message(fields)[:LONGEST_ERROR] or "nothing more"
        if fields.get("choices"):
            self.chunks_s.append(now_s)
        usage = fields.get("usage")
        if isinstance(usage, dict):
            counts = (usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens"))
            self.prompt_tokens, self.output_tokens = (
                parse.integer(count, "usage", minimum=0, maximum=MOST_TOKENS) for count in counts
            )


def _client(load: "LoadTest") -> httpx2.AsyncClient:
    """An HTTP client without a limit of connections."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_S)
    uds = str(load.address.uds) if load.address.uds is not None else None
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    headers |= {"authorization": f"Bearer {load.token}"} if load.token else {}
    transport = httpx2.AsyncHTTPTransport(verify=ssl_context(load.address), uds=uds, limits=limits, trust_env=False)
    return httpx2.AsyncClient(transport=transport, headers=headers, timeout=READ_TIMEOUT_S, trust_env=False)


async def _send(
    client: httpx2.AsyncClient, url: httpx2.URL, clock: Clock, request: PreparedRequest, woke_s: float
) -> RequestResult:
    """Send a completion; a failure is the result's error."""
    stream, sent_s = Stream(), clock()
    headers: Mapping[str, str] = {}
    try:
        async with asyncio.timeout(LONGEST_S), client.stream("POST", url, content=request.body) as response:
            headers = response.headers
            if response.status_code != 200:
                stream.error = f"{response.status_code}: {body_message(await _beginning(response))[:LONGEST_ERROR]}"
            else:
                async for data in response.aiter_raw():
                    stream.feed(data, clock())
    except httpx2.TimeoutException:
        stream.error = f"no data for {READ_TIMEOUT_S:g} s"
    except TimeoutError:
        stream.error = f"the response takes over {LONGEST_S:g} s"
    except httpx2.HTTPError as error:
        stream.error = str(error) or type(error).__name__
    except FormatError as error:
        stream.error = error.message
    if not stream.error and not (stream.done and stream.chunks_s):
        stream.error = "the response is incomplete" if stream.chunks_s else "the response has no tokens"
    return _result(request, woke_s, sent_s, stream, headers)


async def _beginning(response: httpx2.Response) -> bytes:
    """The first 64 KiB of a body."""
    body = b""
    async for data in response.aiter_raw():
        body += data
        if len(body) >= BEGINNING:
            break
    return body[:BEGINNING]


def _result(
    request: PreparedRequest, woke_s: float, sent_s: float, stream: Stream, headers: Mapping[str, str]
) -> RequestResult:
    return RequestResult(
        request.name,
        request.time_s,
        woke_s,
        sent_s,
        tuple(stream.chunks_s),
        stream.prompt_tokens,
        stream.output_tokens or len(stream.chunks_s),
        headers.get("x-lora-tier", ""),
        _milliseconds(headers.get("x-lora-load-ms")),
        stream.error,
    )


def _milliseconds(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None


LEAD_S = 0.01
"""A delay before time 0, so that the first request is not late."""


@dataclass(frozen=True, slots=True)
class LoadTest:
    """Requests to the server at ``address``, at most ``max_concurrency`` at once (None: as many as there are).

    Where the loop is ``closed``, a request's time is when the one before it leaves it a place.
    """

    address: Address
    token: str
    requests: Sequence[PreparedRequest]
    max_concurrency: int | None = None
    closed: bool = False


def run_load(load: LoadTest, results: list[RequestResult], on_done: Callable[[int], None] = lambda _done: None) -> None:
    """Send every request at its time, and wait for all of them; ``on_done`` is called with how many are done.

    ``results`` is filled meanwhile, so that an interrupt leaves what there is.

    A ``KeyboardInterrupt`` cancels the requests under way. From here on the garbage collector ignores every object that
    exists by now: collecting them would pause the generator for too long.
    """
    gc.collect()
    gc.freeze()
    asyncio.run(_run(load, results, on_done))


async def _run(load: LoadTest, results: list[RequestResult], on_done: Callable[[int], None]) -> None:
    places = asyncio.Semaphore(load.max_concurrency or len(load.requests) or 1)

    def clock() -> float:
        return time.perf_counter() - begin

    async with _client(load) as client, asyncio.TaskGroup() as group:
        # A warm-up request: one-time imports and set-up must not delay the load.
        with suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(WARM_UP_S), client.stream("GET", f"{load.address.url}/v1/models") as response:
                await _beginning(response)
        send = partial(_send, client, httpx2.URL(f"{load.address.url}/v1/completions"), clock)
        begin = time.perf_counter() + LEAD_S

        async def one(request: PreparedRequest) -> None:
            woke_s = clock()
            async with places:
                if load.closed:
                    woke_s = clock()
                    request = request._replace(time_s=woke_s)
                results.append(await send(request, woke_s))
            on_done(len(results))

        await asyncio.gather(*[await _start_at(request, clock, group, one) for request in load.requests])


async def _start_at(
    request: PreparedRequest, clock: Clock, group: asyncio.TaskGroup, one: Callable[[PreparedRequest], object]
) -> "asyncio.Task[None]":
    """Start a request at its time."""
    if (left := request.time_s - clock()) > 0:
        await asyncio.sleep(left)
    return group.create_task(one(request))  # type: ignore[arg-type]
