"""An adapter → the same adapter, written so that a named engine serves it right; pure: nothing is read or written here.

``rewrite`` draws a draft through the steps in their order. A step is one function over drafts, in a file of its own;
adding one is that and a line in ``rewrite``. What the engine needs is read off the rows of its profile.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lora_cli.core.keys import PEFT_PREFIX
from lora_cli.repair.begin import begin
from lora_cli.repair.copies import without_copies
from lora_cli.repair.draft import Aim, Change, Draft, Factors, Refusal
from lora_cli.repair.made import Made, cast, copy_of
from lora_cli.repair.places import put_in_place
from lora_cli.repair.scales import settled
from lora_cli.repair.targets import retargeted
from lora_cli.repair.zeros import with_partners

__all__ = ["DTYPES", "Aim", "Change", "Factors", "Made", "Refusal", "Rewrite", "as_it_is", "named", "rewrite"]

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""What tensors may be rounded to, by PyTorch's name and by that in the file."""

_FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What is to be written: the config, and every tensor by name; with ``refusals`` nothing is.

    ``before`` and ``after`` are the updates by module, as they were read and as they will be.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Made]
    before: Mapping[str, Factors]
    after: Mapping[str, Factors]
    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]


def rewrite(aim: Aim, config: Mapping[str, Any]) -> Rewrite:
    """The adapter of ``aim`` as its engine serves it right. ``config`` is its config as JSON, with sound fields."""
    start = begin(aim, config)
    draft = with_partners(put_in_place(without_copies(start, aim), aim), aim)
    moved = draft.factors.keys() != start.factors.keys()
    draft = retargeted(settled(draft, aim), aim, moved=moved)
    return _finished(_rounded(_with_base_name(draft, aim), aim), start)


def as_it_is(aim: Aim, config: Mapping[str, Any]) -> Rewrite:
    """The adapter without a change: for an engine that serves it right, whatever others make of it."""
    tensors = {name: copy_of(tensor) for name, tensor in aim.adapter.tensors.items()}
    return Rewrite(config, tensors, {}, {}, (), ())


def _with_base_name(draft: Draft, aim: Aim) -> Draft:
    was = draft.config.get("base_model_name_or_path")
    if aim.base_name is None or was == aim.base_name:
        return draft
    config = {**draft.config, "base_model_name_or_path": aim.base_name}
    return draft.changed("base", f"base_model_name_or_path is {aim.base_name}", "it was asked for", config=config)


def _rounded(draft: Draft, aim: Aim) -> Draft:
    if aim.dtype is None:
        return draft
    dtype = DTYPES[aim.dtype]

    def one(made: Made) -> Made:
        return cast(made, dtype) if made.dtype in _FLOATING else made

    factors = {module: replace(pair, a=one(pair.a), b=one(pair.b)) for module, pair in draft.factors.items()}
    others = {name: one(made) for name, made in draft.others.items()}
    if factors == draft.factors and others == draft.others:
        return draft
    return draft.changed(
        "dtype", f"tensors rounded to {aim.dtype}", "it was asked for", len(factors), factors=factors, others=others
    )


def _finished(draft: Draft, start: Draft) -> Rewrite:
    tensors = {name: made for module, one in draft.factors.items() for name, made in named(module, one).items()}
    if clash := tensors.keys() & draft.others.keys():
        draft = draft.refused(f"two tensors would be called {min(clash)}", "save the adapter again")
    return Rewrite(
        draft.config, {**tensors, **draft.others}, start.factors, draft.factors, draft.changes, draft.refusals
    )


def named(module: str, one: Factors) -> dict[str, Made]:
    """A module's factors by the names that PEFT gives them on disk: A first."""
    a, b = ("lora_embedding_A", "lora_embedding_B") if one.embedding else ("lora_A.weight", "lora_B.weight")
    return {f"{PEFT_PREFIX}{module}.{a}": one.a, f"{PEFT_PREFIX}{module}.{b}": one.b}
