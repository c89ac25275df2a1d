"""A checkpoint's own tensors → ``BaseModel``: for a model without a config, or of a family that has no table.

Names differ from those in memory where transformers 5 converts while it loads (its ``conversion_mapping``): prefixes of
wrappers, a missing prefix of the bare model, and experts that are stored one by one and fused in memory. Shapes differ
where weights are packed, as far as headers show it: AutoGPTQ and GPTQModel (``qweight`` int32, packed along d_in),
AutoAWQ (packed along d_out); for bitsandbytes, compressed-tensors, MXFP4 (gpt-oss), HQQ and AQLM a header does not hold
the dimensions. Kinds are recognised by names and shapes: an embedding by its name, GPT-2's transposed layers by a bias
as long as the second dimension.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import UNKNOWN_FAMILY, BaseModel, BaseModule
from lora_cli.base.families import architecture_of
from lora_cli.errors import FormatError

Shapes = dict[str, tuple[int, ...]]
T = TypeVar("T")

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
    ``config``, where there is one, gives the ``model_type`` and the class. ``source`` says when weights are quantised.

    Raises:
        FormatError: no weight of a linear layer is in it, it is an adapter, or it is quantised in a way that hides
            the dimensions.
    """
    first = next(iter(tensors.values()), None)
    where = first.file if first is not None else "checkpoint"
    if any(".lora_A." in tensor for tensor in tensors):
        raise FormatError("these are an adapter's weights, not a base model's", where=where)
    shapes, method = _unpacked(tensors)
    modules, parameters = _sorted_out(_fused(_renamed(shapes)))
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
        architecture=architecture_of(config or {}),
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


ROOTS = {
    "embed_tokens.weight": "model.",
    "decoder.embed_tokens.weight": "model.",
    "wte.weight": "transformer.",
    "word_embeddings.weight": "transformer.",
    "embed_in.weight": "gpt_neox.",
}
"""A tensor that is at the root only when the model was saved without its head, and the prefix that is missing."""

RENAMES = (
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"^embed_out\.", "lm_head."),
)
"""Old names of what every checkpoint may hold."""

WRAPPERS: Mapping[str, tuple[tuple[str, str], ...]] = {
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
}
"""How a tensor of the vision part begins on disk, and what the wrapper renames then. Llama 4 renames nothing."""

EXPERT = re.compile(r"(.+\.experts)\.(\d{1,6})\.(gate_proj|up_proj|down_proj|w[123])\.weight")
ROLES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def names_in_memory(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The tensors on disk of each parameter of the loaded model; several for experts that it fuses.

    A name on disk stands for itself too, for an adapter that has the old names as well.
    """
    sources: dict[str, list[str]] = {}
    for new, name in _renamed({name: name for name in names}).items():
        sources.setdefault(new, []).append(name)
        if found := EXPERT.fullmatch(new):
            role = ROLES.get(found[3], found[3])
            sources.setdefault(f"{found[1]}.{'down_proj' if role == 'down_proj' else 'gate_up_proj'}", []).append(name)
    return {
        **{name: (name,) for found in sources.values() for name in found},
        **{n: tuple(f) for n, f in sources.items()},
    }


def _renamed(shapes: Mapping[str, T]) -> dict[str, T]:
    root = next((prefix for name, prefix in ROOTS.items() if name in shapes), "")
    wrapper = next((part for part in WRAPPERS if any(name.startswith(part) for name in shapes)), "")
    renames = (*WRAPPERS.get(wrapper, ()), *RENAMES)
    rules = [(re.compile(pattern), replacement) for pattern, replacement in renames]
    renamed: dict[str, T] = {}
    for name, shape in shapes.items():
        new = name if name.startswith("lm_head.") else root + name
        for pattern, replacement in rules:
            new = pattern.sub(replacement, new)
        renamed[new] = shape
    return renamed


def _fused(shapes: Shapes) -> Shapes:
    """Experts ``0 … n-1`` of equal shapes as ``gate_up_proj`` [n, 2 * width, d] and ``down_proj`` [n, d, width]."""
    groups: dict[str, dict[tuple[int, str], str]] = {}
    for name in shapes:
        if found := EXPERT.fullmatch(name):
            path, number, role = found.groups()
            groups.setdefault(path, {})[int(number), ROLES.get(role, role)] = name
    fused = dict(shapes)
    for path, members in groups.items():
        fusion = _fusion(len(members), {key: shapes[name] for key, name in members.items()})
        if fusion is None:
            continue
        for name in members.values():
            del fused[name]
        fused[f"{path}.gate_up_proj"], fused[f"{path}.down_proj"] = fusion
    return fused


def _fusion(
    members: int, shapes: Mapping[tuple[int, str], tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The two fused shapes, or None for experts that do not fit one tensor and stay as they are."""
    count, rest = divmod(members, 3)
    gate, up, down = (
        _common(shapes.get((i, role)) for i in range(count)) for role in ("gate_proj", "up_proj", "down_proj")
    )
    if rest or gate is None or down is None or gate != up or len(gate) != 2 or down != gate[::-1]:
        return None
    width, d = gate
    return (count, 2 * width, d), (count, d, width)


def _common(shapes: Iterable[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    distinct = set(shapes)
    return distinct.pop() if len(distinct) == 1 else None


HINT = "use the unquantised model as the base, or one with a config.json of a known family"

OPAQUE = {
    "absmax": "bitsandbytes 4-bit",
    "weight_packed": "compressed-tensors",
    "gate_up_proj_blocks": "MXFP4",
    "W_q": "HQQ",
    "codes": "AQLM",
}
"""Last names that identify a layout whose headers do not show the dimensions."""

SCALED = {"weight_scale_inv": "fp8", "weight_scale": "compressed-tensors", "SCB": "bitsandbytes 8-bit"}
"""Companions of a weight that is quantised and still has its own shape."""


def _unpacked(tensors: Mapping[str, TensorInfo]) -> tuple[dict[str, tuple[int, ...]], str]:
    """Shape by name, each packed weight under ``<module>.weight`` with the shape that it stands for, and the method.

    The method is empty for a checkpoint that is not quantised.

    Raises:
        FormatError: the checkpoint is quantised in a way that hides the dimensions.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    method = ""
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        _refuse_opaque(name, leaf, tensor)
        if leaf == "qweight":
            shapes[f"{path}.weight"], method = _packed(path, tensor, tensors)
        elif leaf in SCALED:
            method = method or SCALED[leaf]
        elif leaf not in ("qzeros", "scales", "g_idx"):
            shapes[name] = tensor.shape
    return shapes, method


def _refuse_opaque(name: str, leaf: str, tensor: TensorInfo) -> None:
    method = OPAQUE.get(leaf, "")
    if not method and leaf == "weight" and tensor.dtype == "U8":
        method = "two 4-bit values per byte"
    if method:
        reason = f"the checkpoint is quantised ({method}), and its header does not give the dimensions of {name}"
        raise FormatError(reason, where=tensor.file, hint=HINT)


def _packed(path: str, qweight: TensorInfo, tensors: Mapping[str, TensorInfo]) -> tuple[tuple[int, ...], str]:
    """``[d_out, d_in]`` of one GPTQ or AWQ module."""
    scales = tensors.get(f"{path}.scales")
    if scales is None or len(scales.shape) != 2 or len(qweight.shape) != 2:
        raise FormatError(f"{path}: qweight without scales of its shape", where=qweight.file, hint=HINT)
    d_out, (rows, columns) = scales.shape[1], qweight.shape
    if columns != d_out:
        return (d_out, rows), "awq"
    order, zeros = tensors.get(f"{path}.g_idx"), tensors.get(f"{path}.qzeros")
    if order is not None and len(order.shape) == 1:
        return (d_out, order.shape[0]), "gptq"
    bits = zeros.shape[1] * 32 // d_out if zeros is not None and len(zeros.shape) == 2 and d_out else 0
    if not bits:
        raise FormatError(
            f"{path}: without g_idx or qzeros the packing of qweight is unknown", where=qweight.file, hint=HINT
        )
    return (d_out, rows * 32 // bits), "gptq"
