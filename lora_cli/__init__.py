"""The supply chain for LoRA adapters on their way to an inference engine.

As a library it has three verbs, ``fetch``, ``read_adapter`` and ``check`` (``lora_cli.library`` says what they take).
None of what they need is imported before it is called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_cli.library import check, fetch, read_adapter

__all__ = ["__version__", "check", "fetch", "read_adapter"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The verbs, imported when they are asked for (PEP 562)."""
    if name in {"check", "fetch", "read_adapter"}:
        return getattr(import_module("lora_cli.library"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
