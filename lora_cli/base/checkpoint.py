"""The tensors of a base's checkpoint, by their headers: of one safetensors file, or of the shards in an index.

Names differ from those in memory where transformers 5 renames them while it loads (its ``conversion_mapping``).
"""

import re
from collections.abc import Iterable
from pathlib import Path

from lora_cli import parse
from lora_cli.adapter.reading import read_tensors
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.errors import FormatError
from lora_cli.sources.files import Files
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
    "visual.": (
        (r"^model\.(?!language_model\.|visual\.)", "model.language_model."),
        (r"^visual\.", "model.visual."),
    ),
    "wte.": ((r"^(?!lm_head\.)", "transformer."),),
    "embed_out.": ((r"^embed_out\.", "lm_head."),),
}
"""What is renamed in a checkpoint that has tensors of such names: of Gemma 3, Qwen-VL, GPT-2 and GPT-NeoX."""


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
    shard_of = weight_map(b"".join(files.read(index)))
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(shard_of.values())):
        if (file := files.file(shard)) is None:  # only looked up among the files, so that no path leads outside
            raise FormatError(f"the shard {shown(shard)} is missing", where=INDEX_FILE)
        # If two shards have a tensor of the same name, that of the index counts, as in transformers.
        found = read_tensors(files, file)
        tensors |= {name: one for name, one in found.items() if shard_of.get(name, shard) == shard}
    if lost := next((name for name in shard_of if name not in tensors), ""):
        raise FormatError(f"{shard_of[lost]} does not contain {lost}, although the index lists it", where=INDEX_FILE)
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
