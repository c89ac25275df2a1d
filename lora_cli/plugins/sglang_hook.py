"""Adapters by name in SGLang's tokenizer manager, over ``plugins.resolver``; read in and run with SGLang 0.5.23."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import sglang
from fastapi import HTTPException
from sglang.srt.managers.io_struct import LoadLoRAAdapterReqInput

from lora_cli.finding import Deployment
from lora_cli.plugins.names import Names
from lora_cli.plugins.resolver import Resolved, Resolver, Running, Unresolved, resolver_for

RETRY_S = 30.0
"""An adapter that SGLang could not load is not loaded again for so long: the scheduler stops while it reads one."""

MOST_FAILURES = 1000


class Hook:
    """Loads the adapters that a request names and SGLang does not know, before SGLang looks for them."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._resolver: Resolver | None = None
        self._running: Running | None = None
        self._loads: dict[str, asyncio.Task[str]] = {}
        self._failures: dict[str, tuple[Resolved, str, float]] = {}

    async def resolve(self, original: Callable[..., Awaitable[Any]], manager: Any, obj: Any) -> Any:
        """Goes around ``TokenizerManager._resolve_lora_path(obj)``, whose ``lora_path`` has one name or several.

        Raises:
            HTTPException: an adapter is one of ours and cannot be served; its status and message are the client's.
        """
        asked = dict.fromkeys([obj.lora_path] if isinstance(obj.lora_path, str) else obj.lora_path)
        most = manager.server_args.max_loaded_loras
        if most is None or len(asked) <= most:  # SGLang itself refuses a request for more
            for name in asked:
                # What was loaded once and evicted, SGLang loads again from the path that it remembers.
                if name and name not in manager.lora_ref_cache:
                    await self._ensure_loaded(manager, name)
        return await original(manager, obj)

    async def _ensure_loaded(self, manager: Any, name: str) -> None:
        if self._resolver is None or self._running is None:
            self._running = Running(f"sglang@{sglang.__version__}", *_started(manager.server_args))
            self._resolver = resolver_for(self._names, logging.getLogger())
        try:
            found = await self._resolver.resolve(name, self._running)
        except Unresolved as error:
            raise HTTPException(error.status, error.message) from None
        if found is None or name in manager.lora_ref_cache:
            return
        known, failure, retry_at = self._failures.get(name, (None, "", 0.0))
        if known != found or time.monotonic() >= retry_at:
            failure = await self._loaded(manager, found)
        if failure:
            raise HTTPException(422, f"{name}: SGLang cannot load it: {failure}")

    async def _loaded(self, manager: Any, found: Resolved) -> str:
        """Why SGLang cannot load it, "" if it did. Who asks at the same time waits for the same load.

        The load goes on when a client goes away: SGLang would take the answer to a load that was cancelled for that
        to the next one (``managers/communicator.py``).
        """
        load = self._loads.get(found.name)
        if load is None:
            load = self._loads[found.name] = asyncio.create_task(self._load(manager, found))
            load.add_done_callback(lambda _: self._loads.pop(found.name))
        return await asyncio.shield(load)

    async def _load(self, manager: Any, found: Resolved) -> str:
        request = LoadLoRAAdapterReqInput(lora_name=found.name, lora_path=str(found.directory))
        try:
            result = await manager.load_lora_adapter(request)
        except AssertionError as error:  # --dp-size above 1
            failure = str(error)
        else:
            # A load may have failed because another request, or /load_lora_adapter, loaded it meanwhile.
            served = result.success or found.name in manager.lora_ref_cache
            failure = "" if served else result.error_message or "no reason given"
        self._failures.pop(found.name, None)
        if failure:
            if len(self._failures) >= MOST_FAILURES:
                del self._failures[next(iter(self._failures))]
            self._failures[found.name] = (found, failure, time.monotonic() + RETRY_S)
        return failure


def _started(server_args: Any) -> tuple[str, Deployment | None]:
    """The base model and the limits that SGLang was started with."""
    rank, targets = server_args.max_lora_rank, server_args.lora_target_modules
    if not isinstance(rank, int):
        # Without the option SGLang takes the largest rank of the adapters at its start.
        return server_args.model_path, None
    limited = tuple(targets) if targets and "all" not in targets else None
    return server_args.model_path, Deployment(max_lora_rank=rank, lora_target_modules=limited)
