"""The layout of one warm process, and an adapter that it is to load. Torch-free."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from lora_cli.adapter.adapter import Adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import MissingExtra
from lora_cli.refs.adapter_files import BASE_CONFIG
from lora_cli.refs.reference import AdapterRef, ref_of

Device = Literal["auto", "cpu", "cuda"]
Forward = Literal["modules", "model"]
TierName = Literal["gpu", "cpu", "disk"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The layout, in vLLM's words: ``max_loras`` slots, ``max_cpu_loras`` adapters in memory.

    Ranks above ``max_lora_rank`` are refused (0: none is). ``base_directory`` holds the base's checkpoint, or is None
    when there is none on this disk. ``forward="model"`` loads that checkpoint with transformers.
    """

    base: BaseModel
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int = 0
    base_directory: Path | None = None
    device: Device = "auto"
    forward: Forward = "modules"


@dataclass(frozen=True, slots=True)
class LoraRequest:
    """A validated adapter on this disk: names of one ``key``, its digest, share a slot, which ``keep_loaded`` keeps."""

    name: str
    directory: Path
    adapter: Adapter
    key: str
    keep_loaded: bool = False


def require_packages_for(forward: Forward, *more: str) -> None:
    """Raises ``MissingExtra`` when what ``forward`` needs, or one of ``more``, is not installed. Imports nothing."""
    for package in ("torch", *more):
        if find_spec(package) is None:
            raise MissingExtra("warm", "warm", package)
    if forward == "model" and find_spec("transformers") is None:
        raise MissingExtra("--forward model", "models", "transformers")


def quiet_threads() -> None:
    """Set how long OpenMP's threads look for more work before they sleep, unless it is set: before torch is imported.

    Some microseconds, which is what is between the products of a forward. That makes a decoding step twice as fast as
    where they sleep at once, while the usual 300,000 turns make a proof twenty times slower on cores that others use.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def base_directory(named: str | AdapterRef) -> Path | None:
    """The local directory of the base: a path, or its snapshot in the cache of huggingface_hub; else None."""
    ref = ref_of(named)
    if ref.scheme == "hf":
        from huggingface_hub import try_to_load_from_cache

        file = f"{ref.subfolder}/{BASE_CONFIG}".lstrip("/")
        config = try_to_load_from_cache(ref.location, file, revision=ref.revision)
        return Path(config).parent if isinstance(config, str) else None
    directory = Path(ref.location) / ref.subfolder
    return directory if ref.scheme == "file" and directory.is_dir() else None
