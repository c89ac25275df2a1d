"""The entry point of SGLang's ``sglang.srt.plugins``: adapters are resolved by name at their first request.

SGLang has no interface for that (sglang#15417): a hook goes around the method that looks for a request's adapters. Like
the plugin of vLLM, it does nothing unless ``LORA_CLI_MANIFEST`` or ``LORA_CLI_RESOLVE`` is set. SGLang calls it once in
every process. Read in and run with SGLang 0.5.23.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from lora_cli.finding import Deployment
from lora_cli.plugins import is_configured
from lora_cli.plugins.resolver import Resolved, Resolver, Running, Unresolved, resolver_for

TARGET = "sglang.srt.managers.tokenizer_manager.TokenizerManager._resolve_lora_path"

RETRY_S = 30.0
"""An adapter that SGLang could not load is not loaded again for so long: the scheduler stops while it reads one."""

MOST_FAILURES = 1000


def register() -> None:
    """Register the hook with SGLang."""
    if is_configured():
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        HookRegistry.register(TARGET, Hook().resolve, HookType.AROUND)


class Hook:
    """Loads the adapters that a request names and SGLang does not know, before SGLang looks for them."""

    def __init__(self) -> None:
        self._resolver: Resolver | None = None
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
        from fastapi import HTTPException

        if self._resolver is None:
            self._resolver = resolver_for(_running(manager.server_args), logging.getLogger())
        try:
            found = await self._resolver.resolve(name)
        except Unresolved as error:
            raise HTTPException(error.status, error.message) from None
        if found is None or name in manager.lora_ref_cache:
            return
        known, failure, retry_at = self._failures.get(name, (None, "", 0.0))
        if known != found or time.monotonic() >= retry_at:
            load = self._loads.get(name)
            if load is None:  # else it waits for the load of who asked before
                load = self._loads[name] = asyncio.create_task(self._load(manager, found))
                load.add_done_callback(lambda _: self._loads.pop(name))
            # The load goes on when a client goes away: SGLang would take the answer to a load that was cancelled for
            # that to the next one (managers/communicator.py).
            failure = await asyncio.shield(load)
        if failure:
            raise HTTPException(422, f"{name}: SGLang cannot load it: {failure}")

    async def _load(self, manager: Any, found: Resolved) -> str:
        """Why SGLang cannot load it, "" if it did."""
        from sglang.srt.managers.io_struct import LoadLoRAAdapterReqInput

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


def _running(server_args: Any) -> Running:
    """SGLang with the base model and the limits that it was started with."""
    import sglang

    rank, targets = server_args.max_lora_rank, server_args.lora_target_modules
    deployment = None
    if isinstance(rank, int):  # without the option SGLang takes the largest rank of the adapters at its start
        limited = tuple(targets) if targets and "all" not in targets else None
        deployment = Deployment(max_lora_rank=rank, lora_target_modules=limited)
    return Running(f"sglang@{sglang.__version__}", server_args.model_path, deployment)
