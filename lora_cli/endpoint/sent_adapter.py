"""An adapter as a request carries it to an engine that shares no file system with this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SentAdapter:
    """One adapter: its ``adapter_config.json``, and its tensors as the engine reads them.

    ``tensors`` is a pickle of torch's tensors by name. ``checksums`` has the sha256 of each one's bytes, in hex.
    ``added_tokens`` is its ``added_tokens.json``, if it has one.
    """

    config: Mapping[str, Any]
    tensors: bytes
    checksums: Mapping[str, str]
    added_tokens: Mapping[str, Any] | None = None
