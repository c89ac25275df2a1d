"""A checkpoint's own tensors → ``BaseModel``: for a model without a config, or of a family that has no table.

Kinds are recognised by names and shapes, since a header has no more: an embedding by its name, GPT-2's transposed
layers by a bias as long as the second dimension.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lora_cli.core.architectures.layouts import Shapes, in_memory, unpacked
from lora_cli.core.architectures.table import MAX_LAYERS
from lora_cli.core.base_model import UNKNOWN_FAMILY, BaseModel, BaseModule
from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import FormatError

EMBEDDING = re.compile(r"wte|wpe|embed_(?:in|tokens|positions)\w*|tok_embeddings|\w*embeddings?")
LAYER = re.compile(r"^((?:.*?\.)?(?:layers|layer|h|blocks|block))\.(\d{1,9})\.")
BESIDES_TEXT = re.compile(r"(?:^|[._])(?:vision|visual|audio|speech|image)")
GPT2_LAYERS = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
HEAD = "lm_head"
HEAD_IN = ("language_model.",)
"""Where a wrapper's text model keeps its own head (Llama 4)."""


def base_from_tensors(
    tensors: Mapping[str, TensorInfo], name: str, config: Mapping[str, Any] | None = None
) -> BaseModel:
    """The base model whose checkpoint holds ``tensors`` (those of all shards together).

    A model that shares its head with its embedding stores no head: without one, ``lm_head`` is added and tied.
    ``config``, where there is one, gives the ``model_type``. ``source`` says when the weights are quantised.

    Raises:
        FormatError: no weight of a linear layer is in it, it is an adapter, or it is quantised in a way that hides
            the dimensions.
    """
    first = next(iter(tensors.values()), None)
    where = first.file if first is not None else "checkpoint"
    if any(".lora_A." in tensor for tensor in tensors):
        raise FormatError("these are an adapter's weights, not a base model's", where=where)
    shapes, method = unpacked(tensors)
    modules, parameters = _sorted_out(in_memory(shapes))
    if not modules:
        raise FormatError("contains no linear layer: not a language model", where=where)
    embedding = _input_embedding(modules)
    head = next(
        (f"{path}{HEAD}" for path in HEAD_IN if any(name.startswith(f"{path}model.") for name in modules)), HEAD
    )
    tied = head not in modules and embedding is not None
    if tied and embedding is not None:
        modules[head] = BaseModule(d_in=embedding.d_out, d_out=embedding.d_in)
    model_type = (config or {}).get("model_type")
    return BaseModel(
        name=name,
        model_type=model_type if isinstance(model_type, str) else UNKNOWN_FAMILY,
        modules=modules,
        num_layers=_layers(modules, where),
        hidden_size=_width(modules, embedding),
        vocab_size=embedding.d_in if embedding is not None else None,
        tied_embeddings=tied,
        parameters=parameters,
        source=f"checkpoint header, quantised: {method}" if method else "checkpoint header",
    )


def _sorted_out(shapes: Shapes) -> tuple[dict[str, BaseModule], dict[str, tuple[int, ...]]]:
    transposed = _transposed(shapes)
    experts = {path.rpartition(".experts")[0] for path in shapes if ".experts." in path}
    modules: dict[str, BaseModule] = {}
    parameters: dict[str, tuple[int, ...]] = {}
    for tensor, shape in shapes.items():
        path, _, leaf = tensor.rpartition(".")
        parent, _, last = path.rpartition(".")
        router = parent in experts and (last == "gate" or (last == "router" and f"{path}.bias" in shapes))
        if leaf == "weight" and len(shape) == 2 and path and not router and min(shape) > 0:
            modules[path] = _module(last, shape, f"{path}.bias" in shapes, last in transposed)
        elif len(shape) >= 2 and leaf != "bias":  # GPT-2's old checkpoints hold the attention mask under that name.
            parameters[tensor] = shape
    return modules, parameters


def _module(last: str, shape: tuple[int, ...], bias: bool, transposed: bool) -> BaseModule:
    if EMBEDDING.fullmatch(last):
        return BaseModule(shape[0], shape[1], "embedding")
    if transposed:
        return BaseModule(shape[0], shape[1], "conv1d", bias)
    return BaseModule(shape[1], shape[0], "linear", bias)


def _transposed(shapes: Shapes) -> frozenset[str]:
    """The last names of transposed layers. A square one does not show it, so one that does speaks for GPT-2's names."""
    shown = set()
    for tensor, shape in shapes.items():
        path, _, leaf = tensor.rpartition(".")
        weight = shapes.get(f"{path}.weight", ()) if leaf == "bias" and len(shape) == 1 else ()
        if len(weight) == 2 and weight[0] != shape[0] and weight[1] == shape[0]:
            shown.add(path.rpartition(".")[2])
    return frozenset(shown | GPT2_LAYERS) if shown else frozenset()


def _input_embedding(modules: Mapping[str, BaseModule]) -> BaseModule | None:
    """The embedding of the vocabulary: the largest that is not of another modality."""
    embeddings = [
        module for path, module in modules.items() if module.kind == "embedding" and not BESIDES_TEXT.search(path)
    ]
    return max(embeddings, key=lambda module: module.d_in, default=None)


def _layers(modules: Mapping[str, BaseModule], where: str) -> int:
    """Layers of the language model: of the list with the most modules that is not of another modality."""
    found = [match for path in modules if (match := LAYER.match(path)) and not BESIDES_TEXT.search(path)]
    lists = Counter(match[1] for match in found)
    if not lists:
        return 0
    chosen, _ = lists.most_common(1)[0]
    count = 1 + max(int(match[2]) for match in found if match[1] == chosen)
    if count > MAX_LAYERS:
        raise FormatError(f"{chosen} would have {count} layers, over the limit", where=where)
    return count


def _width(modules: Mapping[str, BaseModule], embedding: BaseModule | None) -> int:
    """The width of the layers: the embedding's, unless a projection is between them (OPT-350m)."""
    projected = next((module.d_out for path, module in modules.items() if path.endswith(".project_in")), None)
    if projected is not None:
        return projected
    if embedding is not None:
        return embedding.d_out
    widths = Counter(module.d_in for module in modules.values() if module.kind != "embedding")
    return widths.most_common(1)[0][0] if widths else 0
