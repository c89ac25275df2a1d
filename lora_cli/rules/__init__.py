"""The rules, one function each: files LC1xx, config LC2xx, tensors LC3xx, engine LC4xx, values LC5xx, supply LC6xx.

Adding one is a function under ``@rule``, a line in ``RULES``, and a file with cases in ``tests/rules/cases``.
"""

import re
from collections.abc import Sequence

from lora_cli.errors import UsageError
from lora_cli.rules import base, config, engine, field_values, files, patterns, saved, supply, tensors, values
from lora_cli.rules.rule import Rule

RULES: tuple[Rule, ...] = (
    files.weights_missing,
    files.weights_corrupt,
    files.weights_pickled,
    files.weights_sharded,
    files.unreadable_file,
    files.config_missing,
    files.config_unreadable,
    files.unsafe_pickle,
    files.foreign_format,
    config.not_lora,
    config.rank_invalid,
    config.alpha_invalid,
    config.field_type,
    config.targets_missing,
    config.duplicate_field,
    config.unknown_field,
    config.pattern_invalid,
    field_values.field_value,
    patterns.dead_pattern,
    patterns.alpha_order,
    tensors.rank_mismatch,
    tensors.pair_incomplete,
    tensors.name_form,
    tensors.adapter_name_infix,
    tensors.name_unknown,
    tensors.factor_shape,
    tensors.untargeted_tensors,
    tensors.no_lora_tensors,
    tensors.factor_dtype,
    tensors.variant_incomplete,
    base.nothing_applies,
    base.partly_applied,
    base.layer_out_of_range,
    base.shape_mismatch,
    base.targets_without_tensors,
    saved.saved_module_missing,
    base.experts_not_fused,
    tensors.narrow_factor,
    tensors.tower_collision,
    saved.head_not_saved,
    saved.saved_shape,
    saved.vocabulary,
    saved.tied_embeddings,
    base.other_base,
    engine.rank_above_max,
    engine.engine_rejects,
    engine.engine_crashes,
    engine.engine_serves_wrong,
    engine.engine_unproven,
    engine.served_base_name,
    values.nonfinite_values,
    values.zero_update,
    values.overflow,
    values.huge_update,
    values.negligible_update,
    values.untrained_part,
    supply.names_code,
    supply.hostile_template,
    supply.unsafe_name,
    supply.unpinned_revision,
    supply.unpinned_base,
    supply.base_unclear,
)
"""Every rule, in the order in which they are run and listed."""


def find(selector: str) -> tuple[Rule, ...]:
    """The rules that a selector means: a code, the beginning of one (``LC3``), or a name.

    Raises:
        UsageError: it means none.
    """
    found = tuple(rule for rule in RULES if selector and rule.matches(selector))
    if not found:
        raise UsageError(f"no rule is called {selector!r}", hint=_instead_of(selector))
    return found


def _instead_of(selector: str) -> str:
    """What else may have been meant. Of two numbers none is misspelt: a code leads to those of its hundred."""
    if group := re.match(r"LC\d", selector.strip().upper()):
        codes = [rule.code for rule in RULES if rule.code.startswith(group[0])]
        return f"{group[0]}xx are {codes[0]} to {codes[-1]}" if codes else "lora-cli rules lists them all"
    from lora_cli.core.nearest import nearest

    close = nearest(selector, [word for rule in RULES for word in (rule.code, rule.name)])
    return f"did you mean {close}?" if close else "lora-cli rules lists them all"


def choose(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The rules of ``select`` (none: all) without those of ``ignore``, in their own order.

    Each entry may hold several selectors with commas between them.

    Raises:
        UsageError: a selector means no rule.
    """
    chosen = _all_of(select) if select else set(RULES)
    left_out = _all_of(ignore)
    return tuple(rule for rule in RULES if rule in chosen and rule not in left_out)


def _all_of(selectors: Sequence[str]) -> set[Rule]:
    words = [word.strip() for selector in selectors for word in selector.split(",")]
    return {rule for word in words if word for rule in find(word)}
