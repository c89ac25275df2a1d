"""Steps of a repair: copies of the base's weights, zero updates, target modules, the base's name and the dtype.

Each takes a draft and gives the next one.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import parse_config
from lora_cli.adapter.names import last_name
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import BaseModel
from lora_cli.engines.profile import MERGE, SAVE_AGAIN, packed_in
from lora_cli.errors import FormatError
from lora_cli.peft.patterns import Matcher
from lora_cli.peft.targets import targeted_in
from lora_cli.repair.draft import Draft, Refusal, RepairContext, TensorRecipe, UpdateRecipe, zeros
from lora_cli.repair.initial_draft import canonical
from lora_cli.text import names

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The dtypes that tensors can be rounded to: PyTorch's name and the one in safetensors."""

_FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

PARTS = frozenset({"base_layer", "saved"})
"""The parts of an adapter that may be a weight of the base."""

MOST_NAMES = 8

NEEDED = (
    ("q-without-v", "q_proj", "v_proj"),
    ("kv-without-q", "k_proj", "q_proj"),
    ("kv-without-q", "v_proj", "q_proj"),
    ("q-without-v", "q_proj", "v_proj"),
    ("up-without-gate", "up_proj", "gate_proj"),
)
"""For an engine with that row: (row, module, the other module that it needs). The first again for an added q_proj."""

NARROWING = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""Fields that leave out some of what ``target_modules`` names."""


def remove_base_copies(draft: Draft, context: RepairContext) -> Draft:
    """The draft without copies of the base's own weights; PEFT accepts these, engines do not."""
    if not context.copies or context.profile.engine.name == "peft":
        return draft
    same = (canonical(context.adapter.keys[one]) for one, equal in context.copies.items() if equal)
    gone = dict.fromkeys(name for name in same if name in draft.others)
    if not gone:
        return draft
    others = {name: recipe for name, recipe in draft.others.items() if name not in gone}
    config, saved = dict(draft.config), draft.config.get("modules_to_save")
    if isinstance(saved, list):
        Matcher("modules_to_save").charge(len(saved) * len(others))
        config["modules_to_save"] = [name for name in saved if any(f".{name}." in text for text in others)] or None
    many = f"{len(gone)} copies" if len(gone) > 1 else "a copy"
    what = f"{many} of the base's own weights left out: {names(list(gone), MOST_NAMES)}"
    why = "they equal the base's weights, and engines refuse or ignore them"
    return draft.changed("copies", what, why, config=config, others=others)


def saved_weights(adapter: Adapter) -> dict[str, TensorInfo]:
    """The tensors that may be copies of the base's weights, by the parameter that each replaces."""
    keys = {name: key for name, key in adapter.keys.items() if key.part in PARTS}
    return {f"{key.module}.{key.param}": adapter.tensors[name] for name, key in keys.items()}


def copy_refusals(context: RepairContext) -> Iterator[Refusal]:
    """Why saved weights that an engine refuses cannot be left out as copies."""
    saved = [tensor.name for tensor in saved_weights(context.adapter).values()]
    if trained := [name for name in saved if context.copies.get(name) is False]:
        yield Refusal(f"{trained[0]} is not the base's own weight: it was trained, or belongs to another base", MERGE)
    if unknown := [name for name in saved if name not in context.copies]:
        hint = "give --base a folder with the model's safetensors: copies of its own weights can be left out"
        yield Refusal(f"whether {unknown[0]} is the base's own weight is unknown", hint)


def add_zero_updates(draft: Draft, context: RepairContext) -> Draft:
    """The draft with zero updates for modules that the engine needs next to others.

    A module that the config targets gets none: if it was trained, its update is lost.
    """
    if context.base is None:
        return draft
    lost = targeted_modules(draft.config, context.base) or frozenset()
    for feature, has, needs in NEEDED:
        if context.has_row(feature):
            why = f"{context.engine} packs {packed_in(needs)} and looks for {needs}"
            partners = _missing_partners(draft, context.base, has, needs)
            draft = _with_zeros(draft, context.base, lost, partners, f"zeros for {needs} next to {has}", why)
    return draft


def _missing_partners(draft: Draft, base: BaseModel, has: str, needs: str) -> Iterator[tuple[str, UpdateRecipe]]:
    """The modules that are needed next to others: (module, the one next to it)."""
    for module, one in draft.factors.items():
        parent, _, leaf = module.rpartition(".")
        partner = f"{parent}.{needs}"
        absent = draft.factors.keys().isdisjoint({partner, f"{parent}.{packed_in(needs)}"})
        if leaf == has and partner in base.modules and absent and one.plain:
            yield partner, one


def _with_zeros(
    draft: Draft, base: BaseModel, lost: Container[str], new: Iterable[tuple[str, UpdateRecipe]], what: str, why: str
) -> Draft:
    """The draft with an update of zeros for each of ``new`` that is not ``lost``: (module, one with rank and dtype)."""
    added = {}
    for module, like in new:
        if module not in lost:
            d_in, d_out = base.modules[module].d_in, base.modules[module].d_out
            a, b = zeros(like.a.dtype, (like.r, d_in)), zeros(like.a.dtype, (d_out, like.r))
            added[module] = UpdateRecipe(a, b, like.scaling)
    return draft.changed("zeros", what, why, len(added), factors={**draft.factors, **added}) if added else draft


def set_target_modules(draft: Draft, context: RepairContext) -> Draft:
    """The draft with a list of targets, where the engine needs one or the config leaves out modules that have factors.

    A module that the config targets stays targeted if it has no factors: it may have been trained.
    """
    wanted = frozenset(module for module, one in draft.factors.items() if one.plain)
    chosen = targeted_modules(draft.config, context.base) if context.base is not None else None
    why = _why_new_targets(draft, context, wanted, chosen)
    if not wanted or not why:
        return draft
    config = _with_targets(draft.config, wanted | (chosen or frozenset()), context.base)
    what = f"target_modules is {names(config['target_modules'], MOST_NAMES)}"
    return draft.changed("targets", what, why, config=config)


def _why_new_targets(
    draft: Draft, context: RepairContext, wanted: frozenset[str], chosen: frozenset[str] | None
) -> str:
    targets = draft.config.get("target_modules")
    is_pattern = isinstance(targets, str) and targets not in {"all", "all-linear"}
    if (is_pattern and context.has_row("targets-pattern")) or (targets is None and context.has_row("targets-null")):
        return f"{context.engine} requires a list"
    moved = draft.factors.keys() != draft.before.keys()
    if moved and (chosen is None or not wanted <= chosen):
        return "the modules changed"
    if context.base is not None and chosen is not None and not wanted & context.base.modules.keys() <= chosen:
        return "it did not include all modules with factors"
    return ""


def targeted_modules(config: Mapping[str, Any], base: BaseModel) -> frozenset[str] | None:
    """The modules of the base that a config targets; None if that is unknown."""
    try:
        return targeted_in(parse_config(config), base)
    except FormatError:
        return None


def _with_targets(config: Mapping[str, Any], wanted: frozenset[str], base: BaseModel | None) -> dict[str, Any]:
    """The config that targets exactly ``wanted``: by last names if these match nothing else, or by whole paths."""
    leaves = sorted({last_name(module) for module in wanted})
    by_leaf = {**config, "target_modules": leaves}
    cleared = {name: None for name in NARROWING if config.get(name) is not None}
    for candidate in (by_leaf, {**by_leaf, **cleared}):
        if base is None or targeted_modules(candidate, base) == wanted:
            return candidate
    return {**config, **cleared, "target_modules": sorted(wanted)}


def set_base_name(draft: Draft, context: RepairContext) -> Draft:
    """The draft with the base's name that was asked for."""
    was = draft.config.get("base_model_name_or_path")
    if context.base_name is None or was == context.base_name:
        return draft
    config = {**draft.config, "base_model_name_or_path": context.base_name}
    return draft.changed("base", f"base_model_name_or_path is {context.base_name}", "as requested", config=config)


def round_tensors(draft: Draft, context: RepairContext) -> Draft:
    """The draft with its floating-point tensors in the dtype that was asked for."""
    if context.dtype is None:
        return draft
    dtype = DTYPES[context.dtype]

    def one(recipe: TensorRecipe) -> TensorRecipe:
        return replace(recipe, dtype=dtype) if recipe.dtype in _FLOATING else recipe

    factors = {module: replace(pair, a=one(pair.a), b=one(pair.b)) for module, pair in draft.factors.items()}
    others = {name: one(recipe) for name, recipe in draft.others.items()}
    if factors == draft.factors and others == draft.others:
        return draft
    return draft.changed(
        "dtype", f"tensors rounded to {context.dtype}", "as requested", len(factors), factors=factors, others=others
    )


def refuse_name_clash(draft: Draft, _: RepairContext) -> Draft:
    """The draft, refused where a factor and another tensor would have one name."""
    clash = {name for module, one in draft.factors.items() for name in one.named(module)} & draft.others.keys()
    return draft.refused(f"two tensors would have the name {min(clash)}", SAVE_AGAIN) if clash else draft
