"""The server's HTTP API: vLLM's paths for adapters and models, and our own for what vLLM does not tell."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lora_cli import __version__
from lora_cli.core.frozen import dataclass
from lora_cli.core.item import Item
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.runtime.plan import Served, ServeOnce
from lora_cli.runtime.process import Died
from lora_cli.serving.answers import MODEL_FIELDS, STATUS, described, error_body, error_of
from lora_cli.serving.completions import Completions
from lora_cli.serving.having import had, taken_away, wait
from lora_cli.serving.host import Host
from lora_cli.serving.metrics import metrics_text
from lora_cli.serving.requests import load_request, name_request, names_request
from lora_cli.serving.roots import allowed
from lora_cli.settings import Settings

LARGEST_BODY = 1 << 20
BODY_S = 10.0
"""So long a client may take to send its request's body."""

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What is answered without a token: probes have none, and learn nothing but yes or no."""

JSON_ONLY = "send it as JSON, with the header content-type: application/json"

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Service:
    """What the API works with.

    ``slots`` adapters fit the device at once; ``has_model`` says that there is a model to answer with. ``token`` is ""
    where none is asked for; ``stop`` ends the server.
    ``hosts`` are the values of a Host header that are answered (None: all of them): a page in a browser can reach a
    server on this machine by a name of its own.
    """

    host: Host
    settings: Settings
    base: str
    roots: Sequence[Path]
    stop: Callable[[], None]
    slots: int
    has_model: bool
    token: str = ""
    hosts: frozenset[str] | None = None
    began: float = 0.0


def make_app(service: Service) -> Starlette:
    """The ASGI application."""
    api = Api(service)
    routes: Sequence[tuple[str, str, Handler]] = (
        ("GET", "/health", api.health),
        ("GET", "/ready", api.ready),
        ("GET", "/metrics", api.metrics),
        ("GET", "/v1/models", api.models),
        ("GET", "/v1/adapters", api.adapters),
        ("GET", "/v1/status", api.status),
        ("POST", "/v1/load_lora_adapter", api.load),
        ("POST", "/v1/unload_lora_adapter", api.unload),
        ("POST", "/v1/prefetch", api.prefetch),
        ("POST", "/v1/probe", api.probe),
        ("POST", "/v1/completions", api.completions),
        ("POST", "/v1/stop", api.stop),
    )
    return Starlette(
        routes=[Route(path, guarded(service, handler), methods=[method]) for method, path, handler in routes],
        exception_handlers={HTTPException: _http_error},
    )


class Api:
    """The handlers, over one service."""

    def __init__(self, service: Service) -> None:
        self.service, self.host = service, service.host
        self._completions = Completions(service.host, service.base, service.slots, has_model=service.has_model)

    async def health(self, _request: Request) -> Response:
        """Whether this process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Whether what was to be loaded first is loaded, or was tried."""
        ready = self.host.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text."""
        return PlainTextResponse(
            await run_in_threadpool(metrics_text, self.host), media_type="text/plain; version=0.0.4"
        )

    async def models(self, _request: Request) -> Response:
        """The base and each adapter that does not fail, as OpenAI and vLLM list them."""
        base = {"id": self.service.base, "created": int(self.service.began), "root": self.service.base, "parent": None}
        known = [
            {
                "id": entry.item.name,
                "created": int(self.service.began),
                "root": str(entry.job.directory) if entry.job is not None else str(entry.item.source),
                "parent": self.service.base,
            }
            for entry in self.host.entries()
            if self.host.failures.last(entry.item.name) is None
        ]
        return JSONResponse({"object": "list", "data": [{**MODEL_FIELDS, **one} for one in [base, *known]]})

    async def adapters(self, _request: Request) -> Response:
        """Every adapter: its tier, bytes, rank, copy in memory, last use, proof or failure."""
        return JSONResponse({"schema": "lora_cli/adapters/1", "adapters": await self._described()})

    async def status(self, _request: Request) -> Response:
        """All of it: the process, its tiers and its adapters."""
        return JSONResponse(await run_in_threadpool(self._status) | {"adapters": await self._described()})

    async def load(self, request: Request) -> Response:
        """As vLLM does at ``/v1/load_lora_adapter``: load and prove, then answer."""
        asked = load_request(await _body(request))
        if asked.lora_name == self.service.base:
            raise UsageError(f"{asked.lora_name} is the base's name")
        source = await run_in_threadpool(allowed, asked.lora_path, self.service.roots, self.service.settings)
        item = Item(asked.lora_name, source)
        report = await wait(self.host.replace(item) if asked.load_inplace else self.host.add(item))
        if report.error:
            raise error_of(report)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """As vLLM does at ``/v1/unload_lora_adapter``."""
        name = name_request(await _body(request), also={"lora_int_id"})
        self.host.remove(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def prefetch(self, request: Request) -> Response:
        """Have adapters loaded ahead of their requests, by priority; answers before they are."""
        names, priority = names_request(await _body(request))
        self.host.prefetch(names, priority)
        return JSONResponse({"queued": list(names)}, 202)

    async def probe(self, request: Request) -> Response:
        """One small request through an adapter: where it was found, and what it took."""
        name = name_request(await _body(request))
        served = await self._served(name)
        headers = {"x-lora-tier": served.tier, "x-lora-load-ms": f"{served.load_ms:.3f}"}
        return JSONResponse(
            {"lora_name": name, "tier": served.tier, "load_ms": served.load_ms, "forward_ms": served.forward_ms},
            headers=headers,
        )

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions, by the base or by an adapter on it."""
        return await self._completions.answer(await _body(request))

    async def stop(self, _request: Request) -> Response:
        """End the server, as SIGTERM does."""
        self.service.stop()
        return JSONResponse({"stopping": True}, 202)

    async def _served(self, name: str) -> Served:
        """A small batch through the adapter, which is brought, loaded and proved first if it must be."""
        for last in (False, True):
            entry = self.host.entry(name)
            found, load_ms = await had(self.host, entry)
            job = entry.job
            assert job is not None
            try:
                # Asking starts a child that died, which takes seconds: not in the loop that answers everybody.
                asked = await run_in_threadpool(self.host.ask, entry, ServeOnce(job))
                served = await wait(asked.future)
            except LoraCliError as error:
                again = not error.alone if isinstance(error, Died) else await taken_away(self.host, entry, job)
                if last or not again:
                    raise
                continue
            assert isinstance(served, Served)
            tier = found or served.tier
            self.host.used(entry, tier)
            return Served(tier, load_ms + served.load_ms, served.forward_ms, served.evicted)  # type: ignore[arg-type]
        raise AssertionError

    async def _described(self) -> list[dict[str, Any]]:
        return await run_in_threadpool(self._all)

    def _all(self) -> list[dict[str, Any]]:
        host, holdings = self.host, self.host.holdings()
        return [described(one, holdings, host.failures, proved=host.is_proved(one)) for one in host.entries()]

    def _status(self) -> dict[str, Any]:
        process, holdings = self.host.process, self.host.holdings()
        ready = process.ready if process is not None else None
        tiers = {"gpu": holdings.gpu, "cpu": holdings.cpu} if holdings is not None else {}
        return {
            "schema": "lora_cli/status/1",
            "version": __version__,
            "base": self.service.base,
            "ready": self.host.ready,
            "up_s": round(time.time() - self.service.began, 3),
            "device": ready.device if ready is not None else "",
            "dtype": ready.dtype if ready is not None else "",
            "weights": ready.weights if ready is not None else "",
            "child_pid": process.pid if process is not None else None,
            "child_starts": process.starts if process is not None else 0,
            "queued": self.host.queued,
            "tiers": {
                name: {
                    "adapters": len(held.keys),
                    "most": held.most,
                    "bytes": held.used_bytes,
                    "max_bytes": held.max_bytes,
                    "hits": held.hits,
                    "loads": held.loads,
                    "evictions": held.evictions,
                }
                for name, held in tiers.items()
            },
        }


def guarded(service: Service, handler: Handler) -> Handler:
    """``handler`` for those who may ask, with errors as clients know them."""

    async def answer(request: Request) -> Response:
        try:
            refusal = _refusal(service, request)
            return refusal if refusal is not None else await handler(request)
        except LoraCliError as error:
            return _failed(error, service)

    return answer


def _refusal(service: Service, request: Request) -> Response | None:
    """Why this request is not answered, if it is not."""
    if service.hosts is not None and request.headers.get("host", "").lower() not in service.hosts:
        return JSONResponse(error_body("this is not that host", 421, "MisdirectedRequestError"), 421)
    if service.token and request.url.path not in OPEN_PATHS:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Bytes: compare_digest takes no text beyond ASCII.
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), service.token.encode()):
            body = error_body("this server asks for a bearer token", 401, "UnauthorizedError")
            return JSONResponse(body, 401, {"www-authenticate": "Bearer"})
    if request.method != "POST":
        return None
    if request.url.path == "/v1/stop":
        # It has no body, so a page in a browser could send it; but then it says where that page is from.
        if "origin" in request.headers:
            return JSONResponse(error_body("no page in a browser ends this server", 403, "ForbiddenError"), 403)
    else:
        # What a page in a browser can send elsewhere without being asked for permission has another type.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return JSONResponse(error_body(JSON_ONLY, 415, "UnsupportedMediaTypeError"), 415)
    return None


async def _body(request: Request) -> bytes:
    """All that the client sends. Raises ``UsageError`` when it is too much or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise HTTPException(413, f"the request has more than {LARGEST_BODY} bytes")
    except TimeoutError as error:
        raise HTTPException(408, f"the request took longer than {BODY_S:g} s") from error
    except ClientDisconnect as error:
        raise UsageError("the client is gone") from error
    return bytes(body)


def _failed(error: LoraCliError, service: Service) -> Response:
    status, kind = STATUS.get(error.exit_code, (500, "InternalServerError"))
    headers = {"retry-after": "1"} if status == 503 else {}
    return JSONResponse(error_body(error.message, status, kind, error.hint), status, headers)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(error.detail, error.status_code, "BadRequestError"), error.status_code)
