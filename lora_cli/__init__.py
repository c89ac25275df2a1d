"""The supply chain of LoRA adapters for inference engines.

``fetch``, ``validate`` and ``inspect`` are the public API (``lora_cli.api``). Their modules are imported on first use.
"""

from lora_cli.version import __version__

TYPE_CHECKING = False  # as in ``typing``, which takes longer to import than all else here

if TYPE_CHECKING:
    from typing import Any

    from lora_cli.adapter.adapter import Adapter
    from lora_cli.api import fetch, inspect, validate
    from lora_cli.errors import LoraCliError
    from lora_cli.judging.result import Result
    from lora_cli.refs.snapshot import Snapshot

__all__ = [
    "Adapter",
    "LoraCliError",
    "Result",
    "Snapshot",
    "__version__",
    "fetch",
    "inspect",
    "validate",
]

_MODULES = {
    **dict.fromkeys(("fetch", "inspect", "validate"), "lora_cli.api"),
    "Adapter": "lora_cli.adapter.adapter",
    "LoraCliError": "lora_cli.errors",
    "Result": "lora_cli.judging.result",
    "Snapshot": "lora_cli.refs.snapshot",
}


def __getattr__(name: str) -> "Any":
    """What the public API has, imported when it is asked for (PEP 562)."""
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
