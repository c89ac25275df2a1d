"""From the tensor names that checkpoints have on disk to the names that the model has in memory.

The two differ where transformers 5 converts while it loads (its ``conversion_mapping``): prefixes of wrappers, a
missing prefix of the bare model, and experts that are stored one by one and held as one tensor.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Shapes = dict[str, tuple[int, ...]]
T = TypeVar("T")

ROOTS = {
    "embed_tokens.weight": "model.",
    "decoder.embed_tokens.weight": "model.",
    "wte.weight": "transformer.",
    "word_embeddings.weight": "transformer.",
    "embed_in.weight": "gpt_neox.",
}
"""A tensor that stands at the root only when the model was saved without its head, and the prefix that is missing."""

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


def in_memory(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The same shapes under the names, and in the tensors, that the loaded model has."""
    return _fused(_renamed(shapes))


def names_in_memory(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What each parameter of the loaded model is made of: the tensors on disk, several for experts that it fuses.

    A name on disk stands for itself too, for an adapter that has the old names as well.
    """
    made: dict[str, list[str]] = {}
    for new, name in _renamed({name: name for name in names}).items():
        made.setdefault(new, []).append(name)
        if found := EXPERT.fullmatch(new):
            role = ROLES.get(found[3], found[3])
            made.setdefault(f"{found[1]}.{'down_proj' if role == 'down_proj' else 'gate_up_proj'}", []).append(name)
    return {**{name: (name,) for found in made.values() for name in found}, **{n: tuple(f) for n, f in made.items()}}


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
        made = _fusion(len(members), {key: shapes[name] for key, name in members.items()})
        if made is None:
            continue
        for name in members.values():
            del fused[name]
        fused[f"{path}.gate_up_proj"], fused[f"{path}.down_proj"] = made
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
