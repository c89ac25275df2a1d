"""The base model that adapters are judged against, read from wherever it is."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_cli.core.base_model import BaseModel
from lora_cli.core.reference import AdapterRef, parse, repository_of
from lora_cli.errors import NotFound, Offline
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.validation.place import is_path

Fallback = Callable[[Mapping[str, Any]], BaseModel]


def open_base(base: str | AdapterRef, settings: Settings, *, fallback: Fallback | None = None) -> BaseModel:
    """The base model that ``base`` names: a directory, a ``config.json``, a Hub id or any reference.

    Only its config and header ranges are read, never weights. ``fallback`` makes a model of an unknown family.

    Raises:
        NotFound, AccessDenied, Unreachable, FormatError: as its source and its files give reason to.
    """
    from lora_cli.reading.base import read_base, read_base_file

    ref = _ref(base)
    if ref.scheme == "file" and Path(ref.location).is_file():
        model = read_base_file(Path(ref.location), fallback=fallback)
        return replace(model, repository=repository_of(ref))
    source = Sources(settings).of(ref)
    name = ref.name if isinstance(base, AdapterRef) and ref.scheme == "file" else str(base)
    try:
        model = read_base(source, source.resolve(ref), name, fallback=fallback)
        return replace(model, repository=repository_of(ref))
    except Offline as error:
        raise Offline(error.message, hint="give --base a folder or a config.json on this disk") from error


def open_config(base: str | AdapterRef, settings: Settings) -> dict[str, Any]:
    """The ``config.json`` of a base, as it is.

    Raises:
        NotFound: it has none, as a checkpoint alone.
        LoraCliError: as ``open_base``.
    """
    from lora_cli.reading.base import read_config, read_config_file

    ref = _ref(base)
    if ref.scheme == "file" and Path(ref.location).is_file():
        config = None if ref.location.endswith(".safetensors") else read_config_file(Path(ref.location))
    else:
        source = Sources(settings).of(ref)
        config = read_config(source, source.resolve(ref))
    if config is None:
        raise NotFound(f"{base} has no config.json, of which a model could be made", hint="--forward modules")
    return config


def _ref(base: str | AdapterRef) -> AdapterRef:
    return parse(base, is_path=is_path) if isinstance(base, str) else base
