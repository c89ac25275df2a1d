"""The server's HTTP API: vLLM's paths for adapters, models and completions, and our own for health and status."""

import asyncio
import hmac
import json
import math
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lora_cli.errors import LoraCliError, UsageError
from lora_cli.isolation import STATUS
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.version import __version__
from lora_cli.warm.adapters import Adapters, AdapterState
from lora_cli.warm.generation import Delta, Generation
from lora_cli.warm.requests import CompletionRequest, LoadRequest, UnloadRequest, allowed_reference
from lora_cli.warm.supervisor import ServerOptions
from lora_cli.warm.worker import Worker

LARGEST_BODY = 1 << 20
GENERATED_AT_ONCE = 8
"""Requests that are generated at once, step by step in turns; others wait."""

TIER_METRICS = (
    ("lora_cli_resident_adapters", "Adapters in a tier.", "adapters"),
    ("lora_cli_resident_bytes", "Bytes of the adapters in a tier.", "bytes"),
    ("lora_cli_tier_hits_total", "Requests that found their adapter in a tier.", "hits"),
    ("lora_cli_tier_misses_total", "Requests that loaded their adapter into a tier.", "loads"),
    ("lora_cli_tier_evictions_total", "Adapters evicted from a tier.", "evictions"),
)

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Paths that need no token: probes have none, and the responses are only yes or no."""


class Api:
    """The handlers.

    ``base`` is the base's model name. ``ready`` is set when what was to be loaded first is loaded, or was tried.
    """

    def __init__(self, adapters: Adapters, options: ServerOptions) -> None:
        self.adapters, self.ready = adapters, False
        self._options, self._base = options, options.base_name
        self._began = time.time()
        self._turns = asyncio.Semaphore(GENERATED_AT_ONCE)

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/health", self.health),
            Route("/ready", self.is_ready),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/status", self.status),
            Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
        ]
        handlers = {HTTPException: _http_error, LoraCliError: _failed}
        app = Starlette(routes=routes, exception_handlers=handlers)
        return Guard(app, self._options.token, self._options.hosts)

    async def health(self, _http: HttpRequest) -> Response:
        """Whether this process lives."""
        return Json({"status": "ok"})

    async def is_ready(self, _http: HttpRequest) -> Response:
        """Whether what was to be loaded first is loaded, or was tried."""
        return Json({"ready": self.ready}, 200 if self.ready else 503)

    async def metrics(self, _http: HttpRequest) -> Response:
        """Prometheus' text. The metrics of the tiers are left out until the base is loaded."""
        metrics, adapters = self.adapters.metrics, list(self.adapters)
        metrics.failed = {one.request.name: one.failure for one in adapters if one.failure is not None}
        metrics.gauges = {
            ("lora_cli_ready", "Whether the first adapters are loaded, or were tried."): self.ready,
            ("lora_cli_adapters", "Adapters registered in the server."): len(adapters),
            ("lora_cli_loading", "Adapters that are being loaded."): sum(one.is_loading for one in adapters),
        }
        if self.adapters.worker.done():
            tiers = self.adapters.worker.result().status()
            for name, text, key in TIER_METRICS:
                metrics.gauges[name, text] = {tier: status[key] for tier, status in tiers.items()}
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, _http: HttpRequest) -> Response:
        """The base and each adapter that does not fail, as OpenAI and vLLM list them."""
        fields = {"object": "model", "owned_by": "lora-cli", "created": int(self._began)}
        listed = [{**fields, "id": self._base, "root": self._base, "parent": None}]
        for state in self.adapters:
            if state.failure is None:
                root = str(state.lora.directory if state.lora is not None else state.request.source)
                listed.append({**fields, "id": state.request.name, "root": root, "parent": self._base})
        return Json({"object": "list", "data": listed})

    async def status(self, _http: HttpRequest) -> Response:
        """The process, its tiers and its adapters: the document of ``warm --status --format json``."""
        worker, adapters = self.adapters.worker.result() if self.adapters.worker.done() else None, list(self.adapters)
        document: dict[str, Any] = {"schema": "lora_cli/status/2", "version": __version__, "base": self._base}
        document |= {"ready": self.ready, "up_s": round(time.time() - self._began, 3), "pid": os.getpid()}
        document |= {"starts": self._options.starts, "tiers": {}}
        if worker is not None:
            dtype = str(worker.dtype).removeprefix("torch.")
            document |= {"device": str(worker.device), "dtype": dtype, "weights": worker.base.origin}
            document["tiers"] = worker.status()
        document["adapters"] = [_described(state, worker) for state in adapters]
        return Json(document)

    async def load(self, http: HttpRequest) -> Response:
        """As vLLM does at ``/v1/load_lora_adapter``: load and prove, then answer."""
        asked = LoadRequest.read(await _body(http))
        if asked.lora_name == self._base:
            raise UsageError(f"{asked.lora_name} is the base's name", hint="use another name")
        known = self.adapters.find(asked.lora_name)
        if known is not None and str(known.request.source) == asked.lora_path:
            source = known.request.source
        else:
            roots, settings = self._options.roots, self._options.settings
            source = await asyncio.to_thread(allowed_reference, asked.lora_path, roots, settings)
        await self.adapters.add(Request(asked.lora_name, source), in_place=asked.load_inplace)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, http: HttpRequest) -> Response:
        """As vLLM does at ``/v1/unload_lora_adapter``."""
        name = UnloadRequest.read(await _body(http)).lora_name
        await self.adapters.remove(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def completions(self, http: HttpRequest) -> Response:
        """OpenAI's completions, by the base or by an adapter on it: one batch a request, whole or as a stream.

        A client that leaves ends its rows.
        """
        asked = CompletionRequest.read(await _body(http))
        state = None if asked.model == self._base else self.adapters.of(asked.model)
        worker = await asyncio.shield(self.adapters.worker)
        model = worker.full_model
        if model is None:
            raise UsageError("this server has no whole model to generate with", hint="start it with --forward model")
        async with AsyncExitStack() as stack:
            slot, headers = None, dict[str, str]()
            if state is not None:
                slot, tier, load_ms = await stack.enter_async_context(self.adapters.slot(state))
                headers = {"x-lora-tier": tier, "x-lora-load-ms": f"{load_ms:.3f}"}
            prompts = [model.prompt_ids(prompt, asked.max_tokens) for prompt in asked.prompt]
            ends = frozenset[int]() if asked.ignore_eos else model.ends
            deltas = _deltas(worker, partial(Generation, model, prompts, slot, asked.max_tokens, ends, model.decode))
            head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time())}
            head |= {"model": asked.model, "object": "text_completion"}
            await stack.enter_async_context(self._turns)
            if asked.stream:
                return _Stream(_events(asked, head, prompts, deltas), headers, stack.pop_all().aclose)
            rows: list[list[Delta]] = [[] for _ in prompts]
            async for delta in deltas:
                rows[delta.row].append(delta)
                if await http.is_disconnected():
                    return Response(status_code=499)
            ids = [tuple(token for one in row for token in one.ids) for row in rows]
            texts = ["".join(one.text for one in row) for row in rows]
            whole = map(Delta, range(len(rows)), ids, texts, (row[-1].finish for row in rows))
            usage = _usage(prompts, sum(map(len, ids)))
            return Json({**head, "choices": [_choice(asked, one) for one in whole], "usage": usage}, headers=headers)


class Guard:
    """Checks of every request before its handler.

    ``token`` is "" if none is required. ``hosts`` are the accepted values of the Host header (None: all): a web page
    can reach a server on this machine under a name of its own (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] | None) -> None:
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await (self._refusal(scope) or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        path, headers = scope["path"], Headers(scope=scope)
        if self._hosts is not None and headers.get("host", "").lower() not in self._hosts:
            return _error("the Host header names another server", 421, "MisdirectedRequestError")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        # Bytes: compare_digest takes no text beyond ASCII.
        matches = scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token.encode())
        if self._token and path not in OPEN_PATHS and not matches:
            wanted = {"www-authenticate": "Bearer"}
            return _error("this server requires a bearer token", 401, "UnauthorizedError", wanted)
        if scope["method"] != "POST":
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A web page can send no JSON to another origin without a preflight request.
            reason = "send the request as JSON, with the header content-type: application/json"
            return _error(reason, 415, "UnsupportedMediaTypeError")
        return None


class Json(JSONResponse):
    """A JSON answer, of any text: also of half a surrogate pair."""

    def render(self, content: Any) -> bytes:
        """The encoded body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class _Stream(StreamingResponse):
    """Server-sent events; ``closing`` is called at their end, also when the client left before it."""

    def __init__(
        self, events: AsyncIterator[bytes], headers: Mapping[str, str], closing: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._closing()


async def _deltas(worker: Worker, generation: Callable[[], Generation]) -> AsyncIterator[Delta]:
    """The output of all rows as it grows. Raises the ``LoraCliError`` that ends it."""
    running = await asyncio.wrap_future(worker.on_device(generation))
    while not running.ended:
        for delta in await asyncio.wrap_future(worker.on_device(running.step)):
            yield delta


async def _events(
    asked: CompletionRequest,
    head: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    deltas: AsyncIterator[Delta],
) -> AsyncIterator[bytes]:
    """Server-sent events: each delta as it comes, the usage if requested, and ``[DONE]``."""
    completed = 0
    try:
        async for delta in deltas:
            yield _event({**head, "choices": [_choice(asked, delta)]})
            completed += len(delta.ids)
    except LoraCliError as error:
        yield _event(_error_body(*_said(error)))
    if asked.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(prompts, completed)})
    yield b"data: [DONE]\n\n"


def _choice(asked: CompletionRequest, delta: Delta) -> dict[str, Any]:
    choice = {"index": delta.row, "text": delta.text, "logprobs": None, "finish_reason": delta.finish or None}
    return {**choice, "token_ids": delta.ids} if asked.return_token_ids else choice


def _usage(prompts: Sequence[Sequence[int]], completed: int) -> dict[str, int]:
    sent = sum(map(len, prompts))
    return {"prompt_tokens": sent, "completion_tokens": completed, "total_tokens": sent + completed}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


async def _body(http: HttpRequest) -> bytes:
    data = bytearray()
    async for chunk in http.stream():
        data += chunk
        if len(data) > LARGEST_BODY:
            raise HTTPException(413, f"the request has more than {LARGEST_BODY} bytes", {"connection": "close"})
    return bytes(data)


def _described(state: AdapterState, worker: Worker | None) -> dict[str, Any]:
    """One adapter in the status; ``worst_error`` is of its proof, over all modules."""
    lora, failed, report = state.lora, state.failure, state.report or LoadReport(state.request.name)
    worst = report.proof.worst.error if report.proof is not None and report.proof.worst is not None else None
    failing = {"error": failed.error, "hint": failed.hint, "rule": failed.rule} if failed is not None else {}
    return {
        "name": state.request.name,
        "source": str(state.request.source),
        "state": state.word,
        "digest": report.digest,
        "tier": "remote" if lora is None or worker is None else worker.tier_of(lora),
        "keep_loaded": state.request.keep_loaded,
        "rank": report.rank,
        "bytes": report.bytes,
        "applied": report.applied,
        "requests": state.requests,
        "worst_error": worst if worst is not None and math.isfinite(worst) else None,
        "stage_ms": report.stage_ms,
        "retry_in_s": round(state.retry_in_s, 3),
        **failing,
    }


def _said(error: LoraCliError) -> tuple[str, int, str]:
    """The message of an error, its HTTP status, and vLLM's name of that."""
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return message, *STATUS.get(error.exit_code, (500, "InternalServerError"))


def _error_body(message: str, status: int, kind: str) -> dict[str, Any]:
    """An error as vLLM and OpenAI write it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _error(message: str, status: int, kind: str, headers: Mapping[str, str] | None = None) -> Json:
    return Json(_error_body(message, status, kind), status, headers)


async def _failed(_http: HttpRequest, error: Any) -> Response:
    message, status, kind = _said(error)
    return _error(message, status, kind, {"retry-after": "1"} if status == 503 else None)


async def _http_error(_http: HttpRequest, error: Any) -> Response:
    return _error(error.detail, error.status_code, "BadRequestError", error.headers)
