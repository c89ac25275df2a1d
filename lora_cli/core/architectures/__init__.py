"""The architectures of base models: module paths and dimensions, from a ``config.json`` or a checkpoint's header."""

from lora_cli.core.architectures.build import UnknownArchitecture, base_from_config, family_of
from lora_cli.core.architectures.families import FAMILIES

__all__ = ["FAMILIES", "UnknownArchitecture", "base_from_config", "family_of"]
