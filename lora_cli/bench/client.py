"""The client: asks a running server for its adapters, and sends requests in an open or a closed loop.

In an open loop each request is sent at its time, whatever became of the others. In a closed loop each of some clients
sends its next request when its last one was answered.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from lora_cli import parse
from lora_cli.bench.workload import Request
from lora_cli.endpoint.client import NOT_AN_ENGINE_HINT, Endpoint, Refusal, body_message, error_message, ssl_context
from lora_cli.endpoint.servers import SERVERS
from lora_cli.errors import EndpointError, FormatError
from lora_cli.redaction import redact

if TYPE_CHECKING:
    import httpx2

READ_TIMEOUT_S = 300.0
LONGEST_ERROR = 300
KEPT_S = 2.0
"""A connection unused for longer is not used again: uvicorn closes its own after 5 s, perhaps just then."""

LEAD_S = 0.01
"""A delay before time 0, so that the first request is not late."""

TOKEN_IDS = range(3, 64)
"""Ids of prompts: every model has them, and smaller ones are special tokens of many."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request. Times are seconds from the start of the run, infinite for what never came.

    Latencies count from ``scheduled_s``: the request's time, in a closed loop when its client was free. ``late_s`` is
    how late the load generator was for that, and ``sent_s`` later only where ``--max-concurrency`` held it back.
    ``tier`` and ``load_ms`` are what the server reports; ``error`` is empty for a whole answer.
    """

    adapter: str
    scheduled_s: float
    late_s: float
    sent_s: float
    first_s: float = inf
    last_s: float = inf
    prompt_tokens: int = 0
    output_tokens: int = 0
    tier: str = ""
    load_ms: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A server: its ``engine`` (``vllm``, ``sglang``, ``lora-cli``, "" if it does not say), version, base, adapters."""

    endpoint: Endpoint
    engine: str
    version: str
    base: str
    adapters: Sequence[str]

    def model(self, adapter: str) -> str:
        """The server's name of an adapter; SGLang's has the base in it."""
        return f"{self.base}:{adapter}" if self.engine == "sglang" else adapter

    def max_loras(self) -> int | None:
        """The number of its slots by vLLM's metrics, which have it once an adapter was asked for; None if unknown."""
        try:
            text = self.endpoint.request("GET", "/metrics").decode("utf-8", "replace")
        except EndpointError:
            return None
        found = re.findall(r'^vllm:lora_requests_info\{[^}\n]*\bmax_lora="(\d{1,6})"', text, re.MULTILINE)
        return int(found[-1]) or None if found else None


def find_target(endpoint: Endpoint) -> Target:
    """The server at ``endpoint``, by its ``/v1/models``.

    Raises:
        EndpointError: it does not answer.
    """
    try:
        listed = parse.objects(endpoint.get("/v1/models"), "data")
    except Refusal as error:
        raise EndpointError(error.message, hint=error.hint or NOT_AN_ENGINE_HINT) from error
    engine = next((owner for one in listed if (owner := str(one.get("owned_by"))) in {*SERVERS, "lora-cli"}), "")
    base = next((str(one.get("id")) for one in listed if not one.get("parent")), "")
    version = SERVERS[engine](endpoint).version() if engine in SERVERS else ""
    return Target(endpoint, engine, version, base, [str(one.get("id")) for one in listed if one.get("parent")])


def request_body(model: str, request: Request, draw: random.Random) -> dict[str, object]:
    """A streamed greedy completion of exactly so many tokens; its random prompt is in no prefix cache."""
    return {
        "model": model,
        "prompt": draw.choices(TOKEN_IDS, k=request.prompt_tokens),
        "max_tokens": request.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def warm_up(target: Target, request: Request) -> None:
    """Have the base answer such a request, so that what a server does once is not measured.

    Raises:
        EndpointError: it cannot.
    """
    if target.base:
        endpoint = Endpoint(target.endpoint.address, target.endpoint.token, READ_TIMEOUT_S)
        endpoint.request("POST", "/v1/completions", request_body(target.base, request, random.Random(0)))  # noqa: S311


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to send, with random prompts by ``seed``.

    At most ``max_concurrency`` are under way at once; by default all, and one in a closed loop.
    """

    target: Target
    requests: Sequence[Request]
    max_concurrency: int | None = None
    seed: int = 0

    @property
    def closed(self) -> bool:
        """Whether the requests have no times."""
        return self.requests[0].time_s is None


def run_load(load: Load, answers: list[Answer]) -> None:
    """Send all requests and add their answers to ``answers``, which has those so far after a ``KeyboardInterrupt``."""
    draw = random.Random(load.seed)  # noqa: S311 - prompts, not secrets
    bodies = [json.dumps(request_body(load.target.model(one.adapter), one, draw)).encode() for one in load.requests]
    asyncio.run(_run(load, bodies, answers))


async def _run(load: Load, bodies: Sequence[bytes], answers: list[Answer]) -> None:
    import httpx2

    endpoint = load.target.endpoint
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    headers |= {"authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
    transport = httpx2.AsyncHTTPTransport(
        verify=ssl_context(endpoint.address),
        uds=None if endpoint.address.uds is None else str(endpoint.address.uds),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_S),
    )
    places = asyncio.Semaphore(load.max_concurrency or (1 if load.closed else len(bodies)))

    def clock() -> float:
        return time.perf_counter() - begin

    async def one(request: Request, body: bytes) -> None:
        late_s = 0.0 if request.time_s is None else clock() - request.time_s
        async with places:
            scheduled_s = clock() if request.time_s is None else request.time_s
            answer = Answer(request.adapter, scheduled_s, late_s, clock())
            answers.append(await _send(client, endpoint.address.url, body, clock, answer))

    async with (
        httpx2.AsyncClient(transport=transport, headers=headers, timeout=READ_TIMEOUT_S, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        with suppress(httpx2.HTTPError):  # the client's first request takes longer
            await client.get(f"{endpoint.address.url}/v1/models")
        begin = time.perf_counter() + LEAD_S
        for request, body in zip(load.requests, bodies, strict=True):
            if request.time_s is not None and (left_s := request.time_s - clock()) > 0:
                await asyncio.sleep(left_s)
            group.create_task(one(request, body))


async def _send(
    client: "httpx2.AsyncClient", url: str, body: bytes, clock: Callable[[], float], answer: Answer
) -> Answer:
    """Send a request and read its events; a failure is the answer's error."""
    import httpx2

    first_s = last_s = inf
    usage: Mapping[str, int] = {}
    tier, load_ms, error, chunks, done, rest = "", None, "", 0, False, b""
    try:
        async with client.stream("POST", f"{url}/v1/completions", content=body) as response:
            tier = response.headers.get("x-lora-tier", "")
            load_ms = float(response.headers["x-lora-load-ms"]) if "x-lora-load-ms" in response.headers else None
            if response.status_code != 200:
                error = f"{response.status_code}: {body_message(await response.aread())}".rstrip(": ")
            else:
                async for data in response.aiter_raw():
                    now_s = clock()
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data: [DONE]"):
                            done = True
                        elif line.startswith(b"data:"):
                            event = parse.mapping(json.loads(line[5:]), "an event")
                            error = error or (error_message(event) if event.get("error") else "")
                            usage = event.get("usage") or usage
                            if event.get("choices"):
                                chunks, first_s, last_s = chunks + 1, min(first_s, now_s), now_s
    except httpx2.TimeoutException:
        error = f"no data for {READ_TIMEOUT_S:g} s"
    except (httpx2.HTTPError, FormatError, ValueError) as why:
        error = str(why) or type(why).__name__
    if not error and not (done and chunks):
        error = "the answer is incomplete" if chunks else "the answer has no tokens"
    return replace(
        answer,
        first_s=first_s,
        last_s=last_s,
        prompt_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens") or chunks,
        tier=tier,
        load_ms=load_ms,
        error=redact(error[:LONGEST_ERROR]),
    )
