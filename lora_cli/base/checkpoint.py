"""A checkpoint's own tensors → ``BaseModel``: for a model without a config, or of an unknown family.

Names differ from those in memory where transformers 5 renames them while it loads (its ``conversion_mapping``). A
checkpoint that is quantised is refused: its header does not show the dimensions. Kinds are recognised by names: an
embedding, and GPT-2's transposed layers. Experts that are stored one by one are modules of their own.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import UNKNOWN_FAMILY, BaseModel, BaseModule
from lora_cli.base.families import architecture_of
from lora_cli.errors import FormatError

Shapes = Mapping[str, tuple[int, ...]]

EMBEDDING = re.compile(r"wte|wpe|embed_(?:in|tokens|positions)\w*|tok_embeddings|\w*embeddings?")
LAYER = re.compile(r"^((?:.*?\.)?(?:layers|layer|h|blocks|block))\.(\d{1,9})\.")
BESIDES_TEXT = re.compile(r"(?:^|[._])(?:vision|visual|audio|speech|image)")
TRANSPOSED = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
"""The last names of GPT-2's transposed layers; those of other models may be linear."""

PACKED = frozenset({"U8", "I8", "I16", "I32"})
"""The dtypes that quantised weights are stored in."""

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


def base_from_tensors(
    tensors: Mapping[str, TensorInfo], name: str, config: Mapping[str, Any] | None = None
) -> BaseModel:
    """The base model whose checkpoint holds ``tensors`` (those of all shards together).

    A model that shares its head with its embedding stores no head: without one, ``lm_head`` is added and tied.
    ``config``, where there is one, gives the ``model_type`` and the class.

    Raises:
        FormatError: no weight of a linear layer is in it, it is an adapter, or it is quantised.
    """
    where = next((tensor.file for tensor in tensors.values()), "checkpoint")
    for tensor in tensors.values():
        if tensor.dtype in PACKED and len(tensor.shape) >= 2 and not tensor.name.endswith(".bias"):
            raise FormatError(
                f"the checkpoint is quantised: {tensor.name} is {tensor.dtype}, which does not show its dimensions",
                where=tensor.file,
                hint="use the unquantised model as the base, or one with a config.json of a known family",
            )
    if any(".lora_A." in tensor for tensor in tensors):
        raise FormatError("these are an adapter's weights, not a base model's", where=where)
    on_disk = names_in_memory(tensors)
    modules, parameters = _sorted_out({new: tensors[old].shape for new, old in on_disk.items()})
    if not modules:
        raise FormatError("contains no linear layer: not a language model", where=where)
    embeddings = [one for one in modules.values() if one.kind == "embedding"]
    embedding = max(embeddings, key=lambda one: one.d_in, default=None)
    tied = "lm_head" not in modules and embedding is not None
    if tied and embedding is not None:
        modules["lm_head"] = BaseModule(embedding.d_out, embedding.d_in)
    # Layers of the language model are the longest list of modules that is of no other modality.
    lists = [one for path in modules if (one := LAYER.match(path)) and not BESIDES_TEXT.search(path)]
    ((longest, _),) = Counter(one[1] for one in lists).most_common(1) or [("", 0)]
    layers = 1 + max((int(one[2]) for one in lists if one[1] == longest), default=-1)
    if layers > MAX_LAYERS:
        raise FormatError(f"it would have {layers} layers, over the limit", where=where)
    model_type = (config or {}).get("model_type")
    widths = Counter(one.d_in for one in modules.values() if one.kind != "embedding")
    return BaseModel(
        name=name,
        model_type=model_type if isinstance(model_type, str) else UNKNOWN_FAMILY,
        modules=modules,
        num_layers=layers,
        hidden_size=embedding.d_out if embedding is not None else max(widths, key=lambda one: widths[one], default=0),
        vocab_size=embedding.d_in if embedding is not None else None,
        tied_embeddings=tied,
        parameters=parameters,
        source="checkpoint header",
        architecture=architecture_of(config or {}),
    )


def _sorted_out(shapes: Shapes) -> tuple[dict[str, BaseModule], dict[str, tuple[int, ...]]]:
    # Those of GPT-2 have a bias as long as the second dimension of the weight.
    gpt2 = any(
        path.endswith(".c_attn.weight")
        and len(shape) == 2
        and shapes.get(f"{path[:-7]}.bias") == shape[1:] != shape[:1]
        for path, shape in shapes.items()
    )
    modules: dict[str, BaseModule] = {}
    parameters: dict[str, tuple[int, ...]] = {}
    for tensor, shape in shapes.items():
        path, _, leaf = tensor.rpartition(".")
        last = path.rpartition(".")[2]
        if leaf == "weight" and len(shape) == 2 and path and min(shape) > 0:
            if EMBEDDING.fullmatch(last):
                modules[path] = BaseModule(*shape, "embedding")
            elif gpt2 and last in TRANSPOSED:
                modules[path] = BaseModule(*shape, "conv1d", f"{path}.bias" in shapes)
            else:
                modules[path] = BaseModule(*shape[::-1], "linear", f"{path}.bias" in shapes)
        elif len(shape) >= 2 and leaf != "bias" and "scale" not in leaf:  # GPT-2's attention mask, the scales of fp8
            parameters[tensor] = shape
    return modules, parameters


def names_in_memory(names: Iterable[str]) -> dict[str, str]:
    """The parameters of the loaded model, to their names in the checkpoint."""
    renamed = {name: name for name in names}
    for part, rules in RENAMES.items():
        if any(name.startswith(part) for name in renamed):
            for pattern, replacement in rules:
                renamed = {re.sub(pattern, replacement, new): name for new, name in renamed.items()}
    return renamed
