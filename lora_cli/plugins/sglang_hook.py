"""Adapters by name in SGLang's tokenizer manager, over ``plugins.resolver``; read in SGLang 0.5.23."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import sglang
from fastapi import HTTPException
from sglang.srt.managers.io_struct import LoadLoRAAdapterReqInput

from lora_cli.core.engine_outcome import Deployment
from lora_cli.plugins.names import Names
from lora_cli.plugins.resolver import Resolver, Running, Unresolved, resolver_for

LOADED_BEFORE = "already loaded"
"""A part of what SGLang says when another request loaded an adapter meanwhile."""


class Hook:
    """Loads the adapters that a request names and SGLang does not know, before SGLang looks for them."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._resolver: Resolver | None = None
        self._running: Running | None = None

    async def resolve(self, original: Callable[..., Awaitable[Any]], manager: Any, obj: Any) -> Any:
        """Goes around ``TokenizerManager._resolve_lora_path(obj)``, whose ``lora_path`` has one name or several.

        Raises:
            HTTPException: an adapter is one of ours and cannot be served; its status and message are the client's.
        """
        asked = [obj.lora_path] if isinstance(obj.lora_path, str) else obj.lora_path
        for name in dict.fromkeys(name for name in asked if name):
            # What was loaded once and evicted, SGLang loads again from the path that it remembers.
            if name not in manager.lora_ref_cache:
                await self._load(manager, name)
        return await original(manager, obj)

    async def _load(self, manager: Any, name: str) -> None:
        if self._resolver is None or self._running is None:
            self._running = Running(f"sglang@{sglang.__version__}", *_started(manager.server_args))
            self._resolver = resolver_for(self._names, logging.getLogger())
        try:
            found = await self._resolver.resolve(name, self._running)
        except Unresolved as error:
            raise HTTPException(error.status, error.message) from None
        if found is None or name in manager.lora_ref_cache:
            return
        request = LoadLoRAAdapterReqInput(lora_name=name, lora_path=str(found.directory))
        result = await manager.load_lora_adapter(request)
        if not result.success and LOADED_BEFORE not in (result.error_message or ""):
            raise HTTPException(422, f"{name}: SGLang cannot load it: {result.error_message}")


def _started(server_args: Any) -> tuple[str, Deployment | None]:
    """The base model and the limits that SGLang was started with."""
    rank, targets = server_args.max_lora_rank, server_args.lora_target_modules
    if not isinstance(rank, int):
        # Without the option SGLang takes the largest rank of the adapters at its start.
        return server_args.model_path, None
    limited = tuple(targets) if targets and "all" not in targets else None
    deployment = Deployment(
        tp=server_args.tp_size,
        max_lora_rank=rank,
        lora_target_modules=limited,
        max_loras=server_args.max_loras_per_batch,
    )
    return server_args.model_path, deployment
