"""The supply chain for LoRA adapters on their way to an inference engine.

As a library it has three verbs, ``fetch``, ``read_adapter`` and ``check`` (``lora_cli.library`` says what they take).
None of what they need is imported before it is called.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_cli.library import check, fetch, read_adapter

__all__ = ["__version__", "check", "fetch", "read_adapter"]

__version__ = "0.1.0"


class _Verb(ModuleType):
    """A package that is also the verb that it is named for: ``lora_cli.fetch("org/name")``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        verb = self.__name__.rpartition(".")[2]
        return getattr(import_module("lora_cli.library"), verb)(*args, **kwargs)


class _Package(ModuleType):
    """This package: when it is given the packages of its verbs, by whichever import, it makes them callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"fetch", "check"} and type(value) is ModuleType:
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """The verbs, imported when they are asked for (PEP 562)."""
    if name in {"fetch", "check"}:
        return import_module(f"lora_cli.{name}")
    if name == "read_adapter":
        return import_module("lora_cli.library").read_adapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
