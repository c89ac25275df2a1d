"""Modules that an engine needs next to others and that were not trained: updates of zeros, without effect."""

from collections.abc import Iterator

from lora_cli.core.base_model import BaseModel
from lora_cli.core.tensor_keys import last_name
from lora_cli.engines.name_resolution import LAYER
from lora_cli.engines.profile import packed_in
from lora_cli.repair.draft import Aim, Draft, Factors, zeros
from lora_cli.repair.targets import chosen_of

NEEDED = (
    ("q-without-v", "q_proj", "v_proj"),
    ("kv-without-q", "k_proj", "q_proj"),
    ("kv-without-q", "v_proj", "q_proj"),
    ("q-without-v", "q_proj", "v_proj"),
    ("up-without-gate", "up_proj", "gate_proj"),
)
"""Of an engine with that row, which module needs which other one next to it; the first again for a q that was added."""


def with_partners(draft: Draft, aim: Aim) -> Draft:
    """The draft with what the engine looks for next to a module, and with whole kinds where it takes no others.

    A module that the config targets is none of these: what was trained there, if anything, is lost.
    """
    if aim.base is None:
        return draft
    lost = chosen_of(draft.config, aim.base) or frozenset()
    for feature, has, needs in NEEDED:
        if aim.has(feature):
            lacking = {module: one for module, one in _lacking(draft, aim.base, has, needs) if module not in lost}
            why = f"{aim.engine} packs {packed_in(needs)} and looks for {needs}"
            draft = _added(draft, aim.base, lacking, f"zeros for {needs} next to {has}", why)
    if aim.profile.grammar.whole_types:
        lacking = {module: one for module, one in _other_layers(draft, aim.base) if module not in lost}
        why = f"{aim.engine} requires a kind of module in every layer"
        draft = _added(draft, aim.base, lacking, "zeros in the untrained layers", why)
    return draft


def _lacking(draft: Draft, base: BaseModel, has: str, needs: str) -> Iterator[tuple[str, Factors]]:
    """Modules that are needed, each with one next to it that has rank and dtype."""
    for module, one in draft.factors.items():
        parent, _, leaf = module.rpartition(".")
        partner = f"{parent}.{needs}"
        absent = draft.factors.keys().isdisjoint({partner, f"{parent}.{packed_in(needs)}"})
        if leaf == has and partner in base.modules and absent and one.plain:
            yield partner, one


def _other_layers(draft: Draft, base: BaseModel) -> Iterator[tuple[str, Factors]]:
    kinds: dict[str, Factors] = {}
    for module, one in draft.factors.items():
        if module in base.modules and LAYER.search(module) and one.plain:
            kinds.setdefault(last_name(module), one)
    for path, of_base in base.modules.items():
        like = kinds.get(last_name(path))
        if like is not None and path not in draft.factors and LAYER.search(path) and of_base.kind != "embedding":
            yield path, like


def _added(draft: Draft, base: BaseModel, lacking: dict[str, Factors], what: str, why: str) -> Draft:
    if not lacking:
        return draft
    new = {}
    for module, like in lacking.items():
        of_base = base.modules[module]
        a, b = (zeros(like.a.dtype, shape) for shape in ((like.r, of_base.d_in), (of_base.d_out, like.r)))
        new[module] = Factors(a, b, like.scaling)
    return draft.changed("zeros", what, why, len(new), factors={**draft.factors, **new})
