"""How an engine is started, as far as that decides what it does with an adapter."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deployment:
    """The flags of the engine that will serve; None is whatever the engine does unless it is told.

    ``tp`` is the tensor-parallel size. ``lora_target_modules`` are the only modules that the engine puts LoRA on.
    ``served_model_name`` is what requests call the base, and ``max_loras`` how many adapters one batch may hold;
    ``pinned`` are those that are never to leave it.
    """

    tp: int = 1
    max_lora_rank: int | None = None
    lora_target_modules: tuple[str, ...] | None = None
    served_model_name: str | None = None
    max_loras: int | None = None
    pinned: int = 0
