"""An adapter → the same adapter, written so that a named engine serves it right; pure: nothing is read or written here.

``rewrite`` draws a draft through the steps in their order. A step is one function over drafts, in a file of its own;
adding one is that and a line in ``rewrite``. What the engine needs is read off the rows of its profile.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lora_cli.engines.fixes import SAVE_AGAIN
from lora_cli.repair.base_copies import without_copies
from lora_cli.repair.begin import begin
from lora_cli.repair.draft import Aim, Change, Draft, Factors, Made, Refusal, copy_of
from lora_cli.repair.module_paths import put_in_place
from lora_cli.repair.scales import settled
from lora_cli.repair.targets import retargeted
from lora_cli.repair.zero_updates import with_partners

__all__ = ["DTYPES", "Aim", "Change", "Draft", "Factors", "Made", "Refusal", "as_it_is", "rewrite"]

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""What tensors may be rounded to, by PyTorch's name and by that in the file."""

_FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


def rewrite(aim: Aim, config: Mapping[str, Any]) -> Draft:
    """The adapter of ``aim`` as its engine serves it right. ``config`` is its config as JSON, with sound fields."""
    draft = put_in_place(without_copies(begin(aim, config), aim), aim)
    draft = retargeted(settled(with_partners(draft, aim), aim), aim)
    return _without_clash(_rounded(_with_base_name(draft, aim), aim))


def as_it_is(aim: Aim, config: Mapping[str, Any]) -> Draft:
    """The adapter without a change: for an engine that serves it right, whatever others make of it."""
    return Draft(config, {}, {name: copy_of(tensor) for name, tensor in aim.adapter.tensors.items()})


def _with_base_name(draft: Draft, aim: Aim) -> Draft:
    was = draft.config.get("base_model_name_or_path")
    if aim.base_name is None or was == aim.base_name:
        return draft
    config = {**draft.config, "base_model_name_or_path": aim.base_name}
    return draft.changed("base", f"base_model_name_or_path is {aim.base_name}", "as requested", config=config)


def _rounded(draft: Draft, aim: Aim) -> Draft:
    if aim.dtype is None:
        return draft
    dtype = DTYPES[aim.dtype]

    def one(made: Made) -> Made:
        return replace(made, dtype=dtype) if made.dtype in _FLOATING else made

    factors = {module: replace(pair, a=one(pair.a), b=one(pair.b)) for module, pair in draft.factors.items()}
    others = {name: one(made) for name, made in draft.others.items()}
    if factors == draft.factors and others == draft.others:
        return draft
    return draft.changed(
        "dtype", f"tensors rounded to {aim.dtype}", "as requested", len(factors), factors=factors, others=others
    )


def _without_clash(draft: Draft) -> Draft:
    """The draft, refused where a factor and another tensor would have one name."""
    clash = {name for module, one in draft.factors.items() for name in one.named(module)} & draft.others.keys()
    return draft.refused(f"two tensors would have the name {min(clash)}", SAVE_AGAIN) if clash else draft
