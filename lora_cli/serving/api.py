"""The server's HTTP API: vLLM's paths for adapters and models, and our own for what vLLM has no path for."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lora_cli.errors import LoraCliError, UsageError
from lora_cli.refs.request import Request
from lora_cli.runtime.messages import LoraRequest, Probe, ProbeResult
from lora_cli.serving.adapter_manager import AdapterManager
from lora_cli.serving.completions import complete
from lora_cli.serving.metrics import metrics_text
from lora_cli.serving.middleware import RequestGuard, failed, http_error, parse_body
from lora_cli.serving.path_allowlist import allowed_reference
from lora_cli.serving.requests import (
    CompletionRequest,
    LoadRequest,
    NameRequest,
    UnloadRequest,
)
from lora_cli.serving.responses import MODEL_FIELDS, Json, adapter_status, streamed_list, tiers_of
from lora_cli.serving.scheduler import Scheduler
from lora_cli.serving.status_report import AdapterStatus, StatusReport
from lora_cli.settings import Settings


@dataclass(eq=False)
class Api:
    """The handlers.

    ``has_model`` says that there is a model to answer with; ``token`` and ``hosts`` are as in ``RequestGuard``.
    """

    manager: AdapterManager
    settings: Settings
    base: str
    roots: Sequence[Path]
    has_model: bool
    token: str = ""
    hosts: frozenset[str] | None = None
    began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self._scheduler = Scheduler(self.manager)

    def app(self) -> RequestGuard:
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
            Route("/v1/probe", self.probe, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/stop", self.stop, methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: http_error, LoraCliError: failed})
        return RequestGuard(app, self.token, self.hosts)

    async def health(self, _request: HttpRequest) -> Response:
        """Whether this process lives."""
        return Json({"status": "ok"})

    async def ready(self, _request: HttpRequest) -> Response:
        """Whether what was to be loaded first is loaded, or was tried."""
        ready = self.manager.ready
        return Json({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _request: HttpRequest) -> Response:
        """Prometheus' text."""
        await self.manager.tier_status.refresh(or_last=True)
        return PlainTextResponse(self.metrics_text(), media_type="text/plain; version=0.0.4")

    def metrics_text(self) -> str:
        """All metrics, as the warm process reported them last."""
        return metrics_text(self.manager, self._scheduler.activity)

    async def models(self, _request: HttpRequest) -> Response:
        """The base and each adapter that does not fail, as OpenAI and vLLM list them."""
        return streamed_list({"object": "list"}, "data", self._models())

    async def adapters(self, _request: HttpRequest) -> Response:
        """Every adapter: its tier, bytes, rank, copy in memory, last use, proof or failure."""
        await self.manager.tier_status.refresh(or_last=True)
        return streamed_list({"schema": "lora_cli/adapters/1"}, "adapters", self._described())

    async def status(self, _request: HttpRequest) -> Response:
        """All of it: the process, its tiers and its adapters."""
        await self.manager.tier_status.refresh(or_last=True)
        return streamed_list(asdict(self._status()), "adapters", self._described())

    async def load(self, request: HttpRequest) -> Response:
        """As vLLM does at ``/v1/load_lora_adapter``: load and prove, then answer."""
        asked = await parse_body(request, LoadRequest.read)
        if asked.lora_name == self.base:
            raise UsageError(f"{asked.lora_name} is the base's name", hint="use another name")
        source = await self.manager.in_thread(allowed_reference, asked.lora_path, self.roots, self.settings)
        item = Request(asked.lora_name, source)
        if asked.load_inplace:
            await self.manager.replace(item)
        else:
            await self.manager.ensure_loaded(self.manager.adapters.add(item))
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, request: HttpRequest) -> Response:
        """As vLLM does at ``/v1/unload_lora_adapter``."""
        name = (await parse_body(request, UnloadRequest.read)).lora_name
        await self.manager.remove(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def probe(self, request: HttpRequest) -> Response:
        """One small request through an adapter: where it was found, and what it took."""
        name = (await parse_body(request, NameRequest.read)).lora_name
        adapter = self.manager.adapters.of(name)

        async def serve(lora: LoraRequest) -> ProbeResult:
            served = await self.manager.wait(self.manager.ask(name, Probe(lora)))
            assert isinstance(served, ProbeResult)
            return served

        served, found, load_ms = await self.manager.with_adapter(adapter, serve, died_of_others=True)
        tier, load_ms = found or served.tier, load_ms + served.load_ms
        self.manager.record_request(adapter, tier)
        headers = {"x-lora-tier": tier, "x-lora-load-ms": f"{load_ms:.3f}"}
        body = {"lora_name": name, "tier": tier, "load_ms": load_ms, "forward_ms": served.forward_ms}
        return Json(body, headers=headers)

    async def completions(self, request: HttpRequest) -> Response:
        """OpenAI's completions, by the base or by an adapter on it."""
        asked = await parse_body(request, CompletionRequest.read)
        if not self.has_model:
            raise UsageError("this server has no whole model to generate with", hint="start it with --forward model")
        return await complete(asked, self.base, self._scheduler)

    async def stop(self, _request: HttpRequest) -> Response:
        """End the server, as SIGTERM does."""
        self.manager.stop()
        return Json({"stopping": True}, 202)

    def _models(self) -> Iterator[dict[str, Any]]:
        """The base and each adapter that does not fail, as OpenAI and vLLM list them."""
        base, created = self.base, int(self.began)
        yield {**MODEL_FIELDS, "id": base, "created": created, "root": base, "parent": None}
        for adapter in self.manager.adapters:
            if adapter.failure is None:
                root = str(adapter.lora.directory if adapter.lora is not None else adapter.item.source)
                yield {**MODEL_FIELDS, "id": adapter.item.name, "created": created, "root": root, "parent": base}

    def _described(self) -> Iterator[AdapterStatus]:
        tiers = tiers_of(self.manager.tier_status.latest()[0])
        return (
            adapter_status(adapter, tiers, proved=self.manager.is_proved(adapter)) for adapter in self.manager.adapters
        )

    def _names(self, keys: Sequence[str]) -> list[str]:
        """The adapters with these keys, in their order."""
        names = {adapter.lora.key: adapter.item.name for adapter in self.manager.adapters if adapter.lora is not None}
        return [names[key] for key in keys if key in names]

    def _status(self) -> StatusReport:
        process = self.manager.process
        contents, age_s = self.manager.tier_status.latest()
        ready = process.ready if process is not None else None
        return StatusReport(
            base=self.base,
            ready=self.manager.ready,
            up_s=round(time.time() - self.began, 3),
            device=ready.device if ready is not None else "",
            dtype=ready.dtype if ready is not None else "",
            weights=ready.weights if ready is not None else "",
            child_pid=process.pid if process is not None else None,
            child_starts=process.starts if process is not None else 0,
            queued=self.manager.queued,
            tiers_age_s=None if age_s is None else round(age_s, 3),
            tiers=contents.tiers if contents is not None else {},
            eviction_order={}
            if contents is None
            else {"gpu": self._names(contents.gpu), "cpu": self._names(contents.cpu)},
            adapters=(),  # they are written one by one
        )
