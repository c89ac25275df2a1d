"""Ranks and scales, written so that the engine uses the trained ones.

The rows of the engine's profile say which of ``r``, ``lora_alpha``, ``use_rslora`` and the patterns it reads. What it
does not read is folded: the common scale into ``lora_alpha``, and the scale of a single module into its B.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lora_cli.adapter.config import parse_config
from lora_cli.adapter.names import last_name
from lora_cli.engines.profile import MERGE, SAVE_AGAIN
from lora_cli.errors import FormatError
from lora_cli.grouping import by_key
from lora_cli.peft.patterns import matching_keys
from lora_cli.peft.targets import scales
from lora_cli.repair.draft import Draft, RepairContext, UpdateRecipe, scaled

ONE_RANK = ("packed-ranks", "rank-not-r")
"""Rows of engines whose modules must have one rank."""


def set_ranks_and_scales(draft: Draft, context: RepairContext) -> Draft:
    """The draft with ranks and scales that the engine reads correctly; unchanged if it already does."""
    plain = {module: one for module, one in draft.factors.items() if one.plain}
    if draft.refusals or not plain:
        return draft
    rank = _rank(plain, context)
    grown = [module for module, one in plain.items() if rank not in {0, one.r}]
    if not grown and not _engine_misreads(context) and _config_matches(draft.config, plain):
        return draft
    if len(plain) < len(draft.factors):
        return draft.refused("fused experts and block factors keep their rank and scale", MERGE)
    padded = _pad(draft, context, rank, grown)
    highest = max(one.r for one in padded.factors.values())
    if not all(math.isfinite(one.scaling * highest) for one in plain.values()):
        return draft.refused("an alpha for the same scale would be too large for a float", SAVE_AGAIN)
    return _write_config(padded, context)


def _engine_misreads(context: RepairContext) -> bool:
    """Whether the engine would scale a module differently from how it was trained."""
    parsed = context.parsed
    rslora = context.has_row("rslora") and parsed.use_rslora
    return rslora or (bool(parsed.rank_pattern or parsed.alpha_pattern) and context.has_row("module-scales"))


def _config_matches(config: Mapping[str, Any], plain: Mapping[str, UpdateRecipe]) -> bool:
    """Whether PEFT reads the rank and the scale of each of these modules from the config."""
    try:
        read = scales(parse_config(config), plain)
    except FormatError:
        return False
    return all(
        read[module].r == one.r and math.isclose(read[module].scaling, one.scaling, rel_tol=1e-9)
        for module, one in plain.items()
    )


def _rank(plain: Mapping[str, UpdateRecipe], context: RepairContext) -> int:
    """The rank that all modules must have for this engine; 0 if each may have its own."""
    ranks = {one.r for one in plain.values()}
    highest = max(ranks)
    return highest if context.has_row(*ONE_RANK) and len(ranks) > 1 else 0


def _pad(draft: Draft, context: RepairContext, rank: int, grown: list[str]) -> Draft:
    """Each module of ``grown`` with the new rank: rows of zeros in A and columns of zeros in B, for the same update."""
    if not grown:
        return draft
    factors = dict(draft.factors)
    for module in grown:
        one = factors[module]
        a, b = replace(one.a, shape=(rank, one.a.shape[1])), replace(one.b, shape=(one.b.shape[0], rank))
        factors[module] = replace(one, a=a, b=b)
    why = f"{context.engine} refuses other ranks"
    return draft.changed("scales", f"ranks padded with zeros to {rank}", why, len(grown), factors=factors)


def _write_config(draft: Draft, context: RepairContext) -> Draft:
    """The draft with a config that has these ranks and scales in the fields that the engine reads."""
    old, r = draft.config, _most_common(one.r for one in draft.factors.values())
    alphas = [one.scaling * r for one in draft.factors.values()]
    # A scale of 0 fits any alpha, and an alpha of 0 fits no other scale.
    alpha = _most_common([alpha for alpha in alphas if alpha] or alphas)
    factors = draft.factors
    if context.has_row("module-scales"):
        factors = {module: _fold(one, alpha / r) for module, one in factors.items()}
    config = {
        **old,
        "r": r,
        "lora_alpha": _as_integer(alpha),
        **({"use_rslora": False} if old.get("use_rslora") else {}),
    }
    config = _with_patterns(config, factors, r, alpha)
    return _note_changes(replace(draft, factors=factors, config=config), draft, context)


def _with_patterns(config: dict[str, Any], factors: Mapping[str, UpdateRecipe], r: int, alpha: float) -> dict[str, Any]:
    """The config with patterns that PEFT reads correctly; with the keys of the old ones where these still fit."""
    old = dict.fromkeys([*(config.get("rank_pattern") or ()), *(config.get("alpha_pattern") or ())])
    for keys in (_keys(factors, old), {module: module for module in factors}):
        patterns = _patterns(factors, r, alpha, keys)
        config = config | {name: pattern for name, pattern in patterns.items() if pattern or config.get(name)}
        if _config_matches(config, {module: one for module, one in factors.items() if one.plain}):
            break
    return config


def _fold(one: UpdateRecipe, scaling: float) -> UpdateRecipe:
    """The module with that ``scaling``, and the rest of its own folded into B."""
    if not scaling or math.isclose(one.scaling, scaling, rel_tol=1e-12):
        return one
    return replace(one, b=scaled(one.b, one.scaling / scaling), scaling=scaling)


def _patterns(
    factors: Mapping[str, UpdateRecipe], r: int, alpha: float, keys: Mapping[str, str]
) -> dict[str, dict[str, int | float]]:
    """The patterns of modules with another rank or alpha: each module under its key of ``keys``."""
    ranks: dict[str, int | float] = {}
    alphas: dict[str, int | float] = {}
    for module, one in factors.items():
        own = _as_integer(one.scaling * one.r)
        if one.r != r:
            ranks[keys[module]] = one.r
        if not math.isclose(own, alpha, rel_tol=1e-12):
            alphas[keys[module]] = own
    return {"rank_pattern": ranks, "alpha_pattern": alphas}


def _keys(factors: Mapping[str, UpdateRecipe], old: Iterable[str]) -> dict[str, str]:
    """The key of each module in patterns: an old key that matches it, else its last name, else its whole path.

    All modules of one key have one rank and one scale.
    """
    matching = matching_keys(old, factors, "patterns")
    groups = by_key((keys[0] if keys else last_name(module), module) for module, keys in matching.items())
    alike = {key: len({(factors[m].r, factors[m].scaling) for m in modules}) == 1 for key, modules in groups.items()}
    return {module: key if alike[key] else module for key, modules in groups.items() for module in modules}


def _note_changes(draft: Draft, before: Draft, context: RepairContext) -> Draft:
    """The draft with a note of each change in the config and in B."""
    new, old = draft.config, before.config
    fields = [name for name in ("use_rslora", "r", "lora_alpha") if new.get(name) != old.get(name)]
    if fields:
        what = ", ".join(f"{name}: {_shown(old.get(name))} → {_shown(new.get(name))}" for name in fields)
        draft = draft.changed("scales", what, f"{context.engine} uses these fields; effective scales are unchanged")
    folded = [module for module, one in draft.factors.items() if one.b != before.factors[module].b]
    if folded:
        why = f"{context.engine} does not read patterns and uses one scale for all modules"
        draft = draft.changed("scales", "module scales folded into lora_B", why, len(folded))
    patterns = [name for name in ("rank_pattern", "alpha_pattern") if (new.get(name) or {}) != (old.get(name) or {})]
    if patterns:
        does = "rewritten" if any(new.get(name) for name in patterns) else "emptied"
        draft = draft.changed(
            "scales", f"{' and '.join(patterns)} {does}", "so that PEFT reads the same ranks and scales"
        )
    return draft


def _most_common(values: Any) -> Any:
    return Counter(values).most_common(1)[0][0]


def _as_integer(value: float) -> int | float:
    """An integer where the value is one up to rounding: a square root that is squared again is not exact."""
    near = round(value)
    return near if math.isclose(value, near, rel_tol=1e-12) else value


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "absent" if value is None else str(value).lower()
    return f"{value:.6g}" if isinstance(value, int | float) else repr(value)[:40]
