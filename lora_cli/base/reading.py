"""A base model, read: its ``config.json``, and the tensors of its checkpoint by their headers. Never weights.

A checkpoint is one safetensors file, or the shards in an index. Names in it differ from those in memory where
transformers 5 renames them while it loads (its ``conversion_mapping``).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lora_cli import parse
from lora_cli.adapter.reading import read_tensors
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import base_from_config
from lora_cli.errors import FormatError, MachineError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG, BASE_CONFIG_CAP
from lora_cli.sources.files import Files, read_beginning
from lora_cli.text import shown

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

RENAMES = {
    "vision_tower.": (
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^vision_tower\.(vision_model\.)?", "model.vision_tower."),
        (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    ),
    "visual.": ((r"^model\.(?!language_model\.|visual\.)", "model.language_model."), (r"^visual\.", "model.visual.")),
    "wte.": ((r"^(?!lm_head\.)", "transformer."),),
    "embed_out.": ((r"^embed_out\.", "lm_head."),),
}
"""What is renamed in a checkpoint that has tensors of such names: of Gemma 3, Qwen-VL, GPT-2 and GPT-NeoX."""


def read_base(place: Files | Path, name: str) -> BaseModel:
    """The base model by the ``config.json`` in ``place``, or by a config that is a local file.

    Raises:
        NotFound: there is no config.
        FormatError: it is malformed, too large, or no model's; else as ``base_from_config``.
        LoraCliError: what the source raises.
    """
    where, data = str(place) if isinstance(place, Path) else f"{name}: {BASE_CONFIG}", None
    if isinstance(place, Path):
        data = local_config(place)
    elif (file := place.file(BASE_CONFIG)) is not None:
        data = read_beginning(place, file, BASE_CONFIG_CAP + 1)
    if data is None:
        hint = "a base model is a folder with its config.json, and no adapter"
        raise NotFound(f"{name} contains no {BASE_CONFIG}", hint=hint)
    return base_from_config(_fields(data, where), name)


def local_config(path: Path) -> bytes | None:
    """The bytes of a local base's config: ``path`` itself, or the ``config.json`` in it; None if it has none.

    Raises:
        FormatError: it is no JSON object, or too large.
        MachineError: it cannot be read.
    """
    file = path / BASE_CONFIG if path.is_dir() else path
    if file.suffix == ".safetensors" or not file.exists():
        return None
    try:
        with file.open("rb") as stream:
            data = stream.read(BASE_CONFIG_CAP + 1)
    except OSError as error:
        raise MachineError(f"{file} cannot be read: {error.strerror}") from error
    _fields(data, str(file))
    return data


def _fields(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > BASE_CONFIG_CAP:
        raise FormatError(f"is longer than the limit of {BASE_CONFIG_CAP} bytes", where=where)
    return parse.json_object(data, where)


def has_weights(directory: Path) -> bool:
    """Whether a directory has a base's weights as safetensors."""
    return (directory / WEIGHTS_FILE).is_file() or (directory / INDEX_FILE).is_file()


def read_checkpoint(files: Files) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint, in one file or in the shards of an index; empty without one as safetensors.

    Raises:
        FormatError: index or header is malformed, or a shard is missing.
        LoraCliError: what the source raises.
    """
    if (single := files.file(WEIGHTS_FILE)) is not None:
        return read_tensors(files, single)
    if (index := files.file(INDEX_FILE)) is None:
        return {}
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map(b"".join(files.read(index))).values())):
        if (file := files.file(shard)) is None:  # only looked up among the files, so that no path leads outside
            raise FormatError(f"the shard {shown(shard)} is missing", where=INDEX_FILE)
        tensors |= read_tensors(files, file)
    return tensors


def weight_map(data: bytes) -> dict[str, str]:
    """Tensor name → shard, from the bytes of an index.

    Raises:
        FormatError: it is no index.
    """
    entries = parse.required(parse.json_object(data, INDEX_FILE), "weight_map", INDEX_FILE)
    return parse.map_of(parse.text)(entries, f"{INDEX_FILE}: weight_map")


def names_in_memory(names: Iterable[str]) -> dict[str, str]:
    """The parameters of the loaded model, to their names in the checkpoint."""
    renamed = {name: name for name in names}
    for part, rules in RENAMES.items():
        if any(name.startswith(part) for name in renamed):
            for pattern, replacement in rules:
                renamed = {re.sub(pattern, replacement, new): name for new, name in renamed.items()}
    return renamed
