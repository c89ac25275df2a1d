"""The base model that adapters are judged against, and its weights where these are on this disk."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.core.base_model import BaseModel
from lora_cli.core.reference import AdapterRef, repository_of
from lora_cli.errors import NotFound, Offline
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.validation.validate import ref_of

if TYPE_CHECKING:
    from lora_cli.reading.checkpoint import Checkpoint

Fallback = Callable[[Mapping[str, Any]], BaseModel]


def open_base(base: str | AdapterRef, settings: Settings, *, fallback: Fallback | None = None) -> BaseModel:
    """The base model that ``base`` names: a directory, a ``config.json``, a Hub id or any reference.

    Only its config and header ranges are read, never weights. ``fallback`` makes a model of an unknown family.

    Raises:
        NotFound, AccessDenied, Unreachable, FormatError: as its source and its files give reason to.
    """
    from lora_cli.reading.base import read_base, read_base_file

    ref = ref_of(base)
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

    ref = ref_of(base)
    if ref.scheme == "file" and Path(ref.location).is_file():
        config = None if ref.location.endswith(".safetensors") else read_config_file(Path(ref.location))
    else:
        source = Sources(settings).of(ref)
        config = read_config(source, source.resolve(ref))
    if config is None:
        raise NotFound(f"{base} has no config.json, of which a model could be made", hint="--forward modules")
    return config


def open_checkpoint(ref: AdapterRef, model: BaseModel, settings: Settings) -> "Checkpoint | None":
    """The weights of the base ``model`` that ``ref`` names; None where they are not all on this disk as safetensors.

    They are in a folder, in a safetensors file, or of a Hub repository in the cache of the Hub's own client.

    Raises:
        LoraCliError: they are there and cannot be read.
    """
    from lora_cli.reading.checkpoint import checkpoint_at, checkpoint_of

    found = None
    if ref.scheme == "file":
        found = checkpoint_of(Path(ref.location))
    elif ref.scheme == "hf":
        with suppress(Offline):  # so that only the cache of the Hub's own client is read
            cache = Sources(replace(settings, offline=True)).of(ref)
            found = checkpoint_at(cache, cache.resolve(ref))
    return None if found is None else replace(found, tied=_tied(model))


def _tied(model: BaseModel) -> dict[str, str]:
    """The output layers that are stored as the embedding that they are tied to."""
    if not model.tied_embeddings:
        return {}
    embeddings = {(one.d_in, one.d_out): path for path, one in model.modules.items() if one.kind == "embedding"}
    return {
        f"{path}.weight": f"{embeddings[one.d_out, one.d_in]}.weight"
        for path, one in model.modules.items()
        if one.kind == "linear" and (one.d_out, one.d_in) in embeddings
    }
