"""The server's HTTP API: vLLM's paths for adapters and models, and our own for what vLLM has no path for."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lora_cli.core.adapter_request import Item
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.runtime.messages import Job, Served, ServeOnce
from lora_cli.serving.adapter_manager import Host
from lora_cli.serving.completions import Batcher, complete
from lora_cli.serving.metrics import metrics_text
from lora_cli.serving.middleware import Front, failed, http_error, parsed
from lora_cli.serving.path_allowlist import allowed
from lora_cli.serving.requests import (
    ChatRequest,
    CompletionRequest,
    GreedyRequest,
    LoadRequest,
    NameRequest,
    PrefetchRequest,
    UnloadRequest,
)
from lora_cli.serving.responses import MODEL_FIELDS, Json, described, listed, tiers_of
from lora_cli.serving.status_report import AdapterStatus, StatusReport
from lora_cli.settings import Settings


@dataclass(eq=False)
class Api:
    """The handlers.

    ``has_model`` says that there is a model to answer with; ``token`` and ``hosts`` are as in ``Front``.
    """

    host: Host
    settings: Settings
    base: str
    roots: Sequence[Path]
    has_model: bool
    token: str = ""
    hosts: frozenset[str] | None = None
    began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self._batcher = Batcher(self.host)

    def app(self) -> Front:
        """The ASGI application."""
        routes = [
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/adapters", self.adapters),
            Route("/v1/status", self.status),
            Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
            Route("/v1/prefetch", self.prefetch, methods=["POST"]),
            Route("/v1/probe", self.probe, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/stop", self.stop, methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: http_error, LoraCliError: failed})
        return Front(app, self.token, self.hosts)

    async def health(self, _request: Request) -> Response:
        """Whether this process lives."""
        return Json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Whether what was to be loaded first is loaded, or was tried."""
        ready = self.host.ready
        return Json({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text."""
        await self.host.looking.ask(or_last=True)
        return PlainTextResponse(self.metrics_text(), media_type="text/plain; version=0.0.4")

    def metrics_text(self) -> str:
        """All metrics, as the warm process reported them last."""
        return metrics_text(self.host, self._batcher.activity)

    async def models(self, _request: Request) -> Response:
        """The base and each adapter that does not fail, as OpenAI and vLLM list them."""
        return listed({"object": "list"}, "data", self._models())

    async def adapters(self, _request: Request) -> Response:
        """Every adapter: its tier, bytes, rank, copy in memory, last use, proof or failure."""
        await self.host.looking.ask(or_last=True)
        return listed({"schema": "lora_cli/adapters/1"}, "adapters", self._described())

    async def status(self, _request: Request) -> Response:
        """All of it: the process, its tiers and its adapters."""
        await self.host.looking.ask(or_last=True)
        return listed(asdict(self._status()), "adapters", self._described())

    async def load(self, request: Request) -> Response:
        """As vLLM does at ``/v1/load_lora_adapter``: load and prove, then answer."""
        asked = await parsed(request, LoadRequest.read)
        if asked.lora_name == self.base:
            raise UsageError(f"{asked.lora_name} is the base's name")
        source = await self.host.in_thread(allowed, asked.lora_path, self.roots, self.settings)
        item = Item(asked.lora_name, source)
        if asked.load_inplace:
            await self.host.replace(item)
        else:
            await self.host.have(self.host.entries.add(item))
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """As vLLM does at ``/v1/unload_lora_adapter``."""
        name = (await parsed(request, UnloadRequest.read)).lora_name
        await self.host.remove(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def prefetch(self, request: Request) -> Response:
        """Have adapters loaded ahead of their requests, by priority; answers before they are."""
        asked = await parsed(request, PrefetchRequest.read)
        self.host.prefetch(asked.lora_names, asked.priority)
        return Json({"queued": asked.lora_names}, 202)

    async def probe(self, request: Request) -> Response:
        """One small request through an adapter: where it was found, and what it took."""
        name = (await parsed(request, NameRequest.read)).lora_name
        entry = self.host.entries.of(name)

        async def serve(job: Job) -> Served:
            asked = await self.host.wait(self.host.ask(name, ServeOnce(job)))
            served = await self.host.wait(asyncio.wrap_future(asked.future))
            assert isinstance(served, Served)
            return served

        served, found, load_ms = await self.host.served(entry, serve, died_of_others=True)
        tier, load_ms = found or served.tier, load_ms + served.load_ms
        self.host.used(entry, tier)
        headers = {"x-lora-tier": tier, "x-lora-load-ms": f"{load_ms:.3f}"}
        body = {"lora_name": name, "tier": tier, "load_ms": load_ms, "forward_ms": served.forward_ms}
        return Json(body, headers=headers)

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions, by the base or by an adapter on it."""
        return await self._answered(await parsed(request, CompletionRequest.read))

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completions, in the chat template of the base."""
        return await self._answered(await parsed(request, ChatRequest.read))

    async def _answered(self, asked: GreedyRequest) -> Response:
        if not self.has_model:
            raise UsageError("this server has no whole model to answer with", hint="start it with --forward model")
        return await complete(asked, self.base, self._batcher)

    async def stop(self, _request: Request) -> Response:
        """End the server, as SIGTERM does."""
        self.host.stop()
        return Json({"stopping": True}, 202)

    def _models(self) -> Iterator[dict[str, Any]]:
        """The base and each adapter that does not fail, as OpenAI and vLLM list them."""
        base, created = self.base, int(self.began)
        yield {**MODEL_FIELDS, "id": base, "created": created, "root": base, "parent": None}
        for entry in self.host.entries:
            if entry.failure is None:
                root = str(entry.job.directory if entry.job is not None else entry.item.source)
                yield {**MODEL_FIELDS, "id": entry.item.name, "created": created, "root": root, "parent": base}

    def _described(self) -> Iterator[AdapterStatus]:
        tiers = tiers_of(self.host.looking.last()[0])
        return (described(entry, tiers, proved=self.host.is_proved(entry)) for entry in self.host.entries)

    def _status(self) -> StatusReport:
        process = self.host.process
        holdings, age_s = self.host.looking.last()
        ready = process.ready if process is not None else None
        return StatusReport(
            base=self.base,
            ready=self.host.ready,
            up_s=round(time.time() - self.began, 3),
            device=ready.device if ready is not None else "",
            dtype=ready.dtype if ready is not None else "",
            weights=ready.weights if ready is not None else "",
            child_pid=process.pid if process is not None else None,
            child_starts=process.starts if process is not None else 0,
            queued=self.host.queued,
            tiers_age_s=None if age_s is None else round(age_s, 3),
            tiers=holdings.tiers if holdings is not None else {},
            adapters=(),  # they are written one by one
        )
