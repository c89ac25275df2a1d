"""A vLLM ``LoRAResolver`` over ``plugins.resolver``; read in vLLM 0.33.0, run with vLLM 0.32.0."""

import inspect
from http import HTTPStatus
from types import FrameType

import vllm
from vllm import exceptions
from vllm.logger import init_logger
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from lora_cli.finding import Deployment
from lora_cli.plugins.resolver import Resolver, Running, Unresolved, resolver_for

log = init_logger("vllm.lora_cli")


class VllmResolver(LoRAResolver):  # type: ignore[misc]
    """Gives vLLM the adapters of a manifest, or of a pattern, by name."""

    def __init__(self) -> None:
        self._resolver: Resolver | None = None

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter of that name; None for a name that is none of ours.

        Raises:
            VLLMError: it is ours, and cannot be served; vLLM tells the client the status and the message.
        """
        if self._resolver is None:
            running = Running(f"vllm@{vllm.__version__}", base_model_name, _limits(inspect.currentframe()))
            self._resolver = resolver_for(running, log)
        try:
            found = await self._resolver.resolve(lora_name)
        except Unresolved as error:
            raise _as_vllm(error) from None
        if found is None:
            return None
        # vLLM gives it a number of its own.
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(found.directory))


def _limits(frame: FrameType | None) -> Deployment | None:
    """The options of the engine, from the object that called the resolver; None if that has another shape.

    vLLM's interface hands a resolver the base model and the name alone. Its caller, ``OpenAIServingModels``, has the
    ``engine_client`` with the ``vllm_config`` (``vllm.engine.protocol.EngineClient``).
    """
    caller = frame.f_back if frame is not None else None
    client = getattr(caller.f_locals.get("self"), "engine_client", None) if caller is not None else None
    lora = getattr(getattr(client, "vllm_config", None), "lora_config", None)
    rank = getattr(lora, "max_lora_rank", None)
    if not isinstance(rank, int):
        log.warning("vLLM's limits cannot be read: adapters are validated without --max-lora-rank")
        return None
    targets = getattr(lora, "target_modules", None)
    return Deployment(max_lora_rank=rank, lora_target_modules=tuple(targets) if targets else None)


def _as_vllm(error: Unresolved) -> Exception:
    """The exception that vLLM answers with that status and message."""
    if error.status == HTTPStatus.NOT_FOUND:
        return exceptions.VLLMNotFoundError(error.message)  # type: ignore[no-any-return]
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        return exceptions.VLLMUnprocessableEntityError(error.message)  # type: ignore[no-any-return]
    return exceptions.GracefulHTTPError(error.message, HTTPStatus(error.status))  # type: ignore[no-any-return]
