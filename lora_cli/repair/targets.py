"""``target_modules`` that name exactly the modules that have an update, in the form that the engine reads."""

from collections.abc import Mapping
from typing import Any

from lora_cli.core.base_model import BaseModel
from lora_cli.core.lora_config import parse_config
from lora_cli.core.target_modules import targeted_in
from lora_cli.core.tensor_keys import last_name
from lora_cli.errors import FormatError
from lora_cli.repair.draft import Aim, Draft

CHOOSING: Mapping[str, Any] = {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
"""Fields that leave out some of what ``target_modules`` names."""


def retargeted(draft: Draft, aim: Aim) -> Draft:
    """The draft with a list of targets, where the engine needs one or the config leaves out modules that have factors.

    What the config targets and has no factors stays targeted: it may have been trained, and rules say so.
    """
    wanted = frozenset(module for module, one in draft.factors.items() if one.plain)
    chosen = chosen_of(draft.config, aim.base) if aim.base is not None else None
    why = _why(draft, aim, wanted, chosen)
    if not wanted or not why:
        return draft
    config = _config(draft.config, wanted | (chosen or frozenset()), aim.base)
    return draft.changed("targets", f"target_modules is {_told(config['target_modules'])}", why, config=config)


def _why(draft: Draft, aim: Aim, wanted: frozenset[str], chosen: frozenset[str] | None) -> str:
    targets = draft.config.get("target_modules")
    is_pattern = isinstance(targets, str) and targets not in {"all", "all-linear"}
    if (is_pattern and aim.has("targets-pattern")) or (targets is None and aim.has("targets-null")):
        return f"{aim.engine} requires a list"
    moved = draft.factors.keys() != draft.before.keys()
    if moved and (chosen is None or not wanted <= chosen):
        return "the modules changed"
    if aim.base is not None and chosen is not None and not wanted & aim.base.modules.keys() <= chosen:
        return "it did not include all modules with factors"
    return ""


def chosen_of(config: Mapping[str, Any], base: BaseModel) -> frozenset[str] | None:
    """The modules of the base that a config targets; None if that is not known."""
    try:
        return targeted_in(parse_config(config), base)
    except FormatError:
        return None


def _config(config: Mapping[str, Any], wanted: frozenset[str], base: BaseModel | None) -> dict[str, Any]:
    """Last names where they choose exactly these modules; else whole paths, which choose nothing else."""
    leaves = sorted({last_name(module) for module in wanted})
    by_leaf = {**config, "target_modules": leaves}
    kept = {name: value for name, value in CHOOSING.items() if config.get(name) is not None}
    for candidate in (by_leaf, {**by_leaf, **kept}):
        if base is None or chosen_of(candidate, base) == wanted:
            return candidate
    return {**config, **kept, "target_modules": sorted(wanted)}


def _told(names: Any) -> str:
    shown = ", ".join(names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
