"""The server's HTTP API: vLLM's paths for adapters and models, and our own for what vLLM does not tell."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lora_cli.core.item import Item
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.runtime.child_process import Died
from lora_cli.runtime.messages import Served, ServeOnce
from lora_cli.serving.answers import MODEL_FIELDS, Held, Json, described, error_of, listed
from lora_cli.serving.completions import Completions
from lora_cli.serving.front import Front, Guard, failed, http_error, parsed
from lora_cli.serving.host import Host, had, taken_away, wait
from lora_cli.serving.metrics import metrics_text
from lora_cli.serving.requests import (
    CompletionRequest,
    LoadRequest,
    NameRequest,
    PrefetchRequest,
    UnloadRequest,
)
from lora_cli.serving.roots import allowed
from lora_cli.serving.status_report import AdapterStatus, StatusReport, TierStatus
from lora_cli.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """What the API works with.

    ``slots`` adapters fit the device at once; ``has_model`` says that there is a model to answer with. ``stop`` ends
    the server; ``token`` and ``hosts`` are as in ``Guard``.
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


def make_app(service: Service) -> Front:
    """The ASGI application."""
    api = Api(service)
    routes = [
        Route("/health", api.health),
        Route("/ready", api.ready),
        Route("/metrics", api.metrics),
        Route("/v1/models", api.models),
        Route("/v1/adapters", api.adapters),
        Route("/v1/status", api.status),
        Route("/v1/load_lora_adapter", api.load, methods=["POST"]),
        Route("/v1/unload_lora_adapter", api.unload, methods=["POST"]),
        Route("/v1/prefetch", api.prefetch, methods=["POST"]),
        Route("/v1/probe", api.probe, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/stop", api.stop, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: http_error, LoraCliError: failed})
    return Front(app, Guard(service.token, service.hosts))


class Api:
    """The handlers, over one service."""

    def __init__(self, service: Service) -> None:
        self.service, self.host = service, service.host
        self._completions = Completions(service.host, service.base, service.slots, has_model=service.has_model)

    async def health(self, _request: Request) -> Response:
        """Whether this process lives."""
        return Json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Whether what was to be loaded first is loaded, or was tried."""
        ready = self.host.ready
        return Json({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text."""
        await self._looked()
        return PlainTextResponse(metrics_text(self.host), media_type="text/plain; version=0.0.4")

    async def models(self, _request: Request) -> Response:
        """The base and each adapter that does not fail, as OpenAI and vLLM list them."""
        return listed({"object": "list"}, "data", self._models())

    async def adapters(self, _request: Request) -> Response:
        """Every adapter: its tier, bytes, rank, copy in memory, last use, proof or failure."""
        await self._looked()
        return listed({"schema": "lora_cli/adapters/1"}, "adapters", self._described())

    async def status(self, _request: Request) -> Response:
        """All of it: the process, its tiers and its adapters."""
        await self._looked()
        return listed(asdict(self._status()), "adapters", self._described())

    async def load(self, request: Request) -> Response:
        """As vLLM does at ``/v1/load_lora_adapter``: load and prove, then answer."""
        asked = await parsed(request, LoadRequest.read)
        if asked.lora_name == self.service.base:
            raise UsageError(f"{asked.lora_name} is the base's name")
        roots, settings = self.service.roots, self.service.settings
        source = await wait(self.host, self.host.aside.submit(allowed, asked.lora_path, roots, settings))
        item = Item(asked.lora_name, source)
        report = await wait(self.host, self.host.replace(item) if asked.load_inplace else self.host.add(item))
        if report.error:
            raise error_of(report)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """As vLLM does at ``/v1/unload_lora_adapter``."""
        name = (await parsed(request, UnloadRequest.read)).lora_name
        await wait(self.host, self.host.aside.submit(self.host.remove, name))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def prefetch(self, request: Request) -> Response:
        """Have adapters loaded ahead of their requests, by priority; answers before they are."""
        asked = await parsed(request, PrefetchRequest.read)
        await wait(self.host, self.host.aside.submit(self.host.prefetch, asked.lora_names, asked.priority))
        return Json({"queued": asked.lora_names}, 202)

    async def probe(self, request: Request) -> Response:
        """One small request through an adapter: where it was found, and what it took."""
        name = (await parsed(request, NameRequest.read)).lora_name
        served = await self._served(name)
        headers = {"x-lora-tier": served.tier, "x-lora-load-ms": f"{served.load_ms:.3f}"}
        return Json(
            {"lora_name": name, "tier": served.tier, "load_ms": served.load_ms, "forward_ms": served.forward_ms},
            headers=headers,
        )

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions, by the base or by an adapter on it."""
        return await self._completions.answer(await parsed(request, CompletionRequest.read))

    async def stop(self, _request: Request) -> Response:
        """End the server, as SIGTERM does."""
        self.service.stop()
        return Json({"stopping": True}, 202)

    async def _served(self, name: str) -> Served:
        """A small batch through the adapter, which is brought, loaded and proved first if it must be."""
        for last in (False, True):
            entry = self.host.entries.of(name)
            found, load_ms = await had(self.host, entry)
            job = entry.job
            assert job is not None
            try:
                # Asking starts a child that died, which takes seconds: not in the loop that answers everybody.
                asked = await wait(self.host, self.host.asking.submit(self.host.ask, name, ServeOnce(job)))
                served = await wait(self.host, asked.future)
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

    async def _looked(self) -> None:
        """Have the tiers looked at; a warm process that does not answer is not waited for long."""
        asked = asyncio.wrap_future(self.host.looking.ask())
        await asyncio.wait([asked], timeout=self.host.looking.patience_s())

    def _models(self) -> Iterator[dict[str, Any]]:
        """The base and each adapter that does not fail, as OpenAI and vLLM list them."""
        base, created = self.service.base, int(self.service.began)
        yield {**MODEL_FIELDS, "id": base, "created": created, "root": base, "parent": None}
        for entry in self.host.entries.all():
            if self.host.failures.last(entry.item.name) is None:
                root = str(entry.job.directory if entry.job is not None else entry.item.source)
                yield {**MODEL_FIELDS, "id": entry.item.name, "created": created, "root": root, "parent": base}

    def _described(self) -> Iterator[AdapterStatus]:
        host = self.host
        held = Held(host.looking.last()[0])
        return (described(one, held, host.failures, proved=host.is_proved(one)) for one in host.entries.all())

    def _status(self) -> StatusReport:
        process = self.host.process
        holdings, age_s = self.host.looking.last()
        ready = process.ready if process is not None else None
        tiers = {"gpu": holdings.gpu, "cpu": holdings.cpu} if holdings is not None else {}
        return StatusReport(
            base=self.service.base,
            ready=self.host.ready,
            up_s=round(time.time() - self.service.began, 3),
            device=ready.device if ready is not None else "",
            dtype=ready.dtype if ready is not None else "",
            weights=ready.weights if ready is not None else "",
            child_pid=process.pid if process is not None else None,
            child_starts=process.starts if process is not None else 0,
            queued=self.host.queued,
            tiers_age_s=None if age_s is None else round(age_s, 3),
            tiers={
                name: TierStatus(
                    adapters=len(held.keys),
                    most=held.most,
                    bytes=held.used_bytes,
                    max_bytes=held.max_bytes,
                    hits=held.hits,
                    loads=held.loads,
                    evictions=held.evictions,
                )
                for name, held in tiers.items()
            },
            adapters=(),  # they are written one by one
        )
