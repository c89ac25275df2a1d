"""An adapter → the same adapter, written so that a named engine serves it correctly.

Pure: no files are read or written. ``rewrite`` applies the steps, each a function from draft to draft; what the engine
needs follows from the rows of its profile.
"""

from lora_cli.repair.draft import Change, Draft, Refusal, RepairContext, TensorRecipe, UpdateRecipe, copy_of
from lora_cli.repair.edits import (
    DTYPES,
    add_zero_updates,
    refuse_name_clash,
    remove_base_copies,
    round_tensors,
    set_base_name,
    set_target_modules,
)
from lora_cli.repair.initial_draft import initial_draft
from lora_cli.repair.module_paths import match_base_paths
from lora_cli.repair.scales import set_ranks_and_scales

__all__ = [
    "DTYPES",
    "Change",
    "Draft",
    "Refusal",
    "RepairContext",
    "TensorRecipe",
    "UpdateRecipe",
    "rewrite",
    "unchanged",
]

STEPS = (
    remove_base_copies,
    match_base_paths,
    add_zero_updates,
    set_ranks_and_scales,
    set_target_modules,
    set_base_name,
    round_tensors,
    refuse_name_clash,
)


def rewrite(context: RepairContext) -> Draft:
    """The adapter as its engine serves it correctly."""
    draft = initial_draft(context)
    for step in STEPS:
        draft = step(draft, context)
    return draft


def unchanged(context: RepairContext) -> Draft:
    """The adapter without a change: for an engine that serves it correctly, whatever others do with it."""
    return Draft(context.config, {}, {name: copy_of(tensor) for name, tensor in context.adapter.tensors.items()})
