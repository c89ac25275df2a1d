"""A base's own weights, where ``--base`` leads to them on this disk."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.core.base_model import BaseModel
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import Offline
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.reading.checkpoint import Checkpoint


def open_checkpoint(ref: AdapterRef, settings: Settings) -> "Checkpoint | None":
    """The weights of the base that ``ref`` names; None where they are not all on this disk as safetensors.

    They are in a folder, in a safetensors file, or of a Hub repository in the cache of the Hub's own client.

    Raises:
        LoraCliError: they are there and cannot be read.
    """
    from lora_cli.reading.checkpoint import checkpoint_at, checkpoint_of

    if ref.scheme == "file":
        return checkpoint_of(Path(ref.location))
    if ref.scheme != "hf":
        return None
    from lora_cli.sources.registry import Sources

    here = Sources(replace(settings, offline=True)).of(ref)  # which then reads the cache of the Hub's own client alone
    try:
        return checkpoint_at(here, here.resolve(ref))
    except Offline:
        return None


def tied(model: BaseModel) -> dict[str, str]:
    """The output layers that are stored as the embedding that they are tied to."""
    if not model.tied_embeddings:
        return {}
    embeddings = {(one.d_in, one.d_out): path for path, one in model.modules.items() if one.kind == "embedding"}
    return {
        f"{path}.weight": f"{embeddings[one.d_out, one.d_in]}.weight"
        for path, one in model.modules.items()
        if one.kind == "linear" and (one.d_out, one.d_in) in embeddings
    }
