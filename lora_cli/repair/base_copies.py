"""Weights of the base that were saved along: an embedding next to its factors, a module that was not trained after all.

PEFT saves the whole embedding wherever one is targeted. Where it equals the base's own nothing is lost without it.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from lora_cli.core.adapter import Adapter
from lora_cli.core.patterns import Matcher
from lora_cli.core.safetensors import TensorInfo
from lora_cli.engines.fixes import MERGE
from lora_cli.repair.begin import canonical
from lora_cli.repair.draft import Aim, Draft, Refusal

PARTS = frozenset({"base_layer", "saved"})
"""The parts of an adapter that may be a weight of the base."""

MOST_NAMES = 8


def without_copies(draft: Draft, aim: Aim) -> Draft:
    """The draft without what the base has bit by bit; PEFT itself takes copies."""
    if not aim.copies or aim.profile.engine.name == "peft":
        return draft
    same = (canonical(aim.adapter.keys[one]) for one, equal in aim.copies.items() if equal)
    gone = dict.fromkeys(name for name in same if name in draft.others)
    if not gone:
        return draft
    others = {name: made for name, made in draft.others.items() if name not in gone}
    config, saved = dict(draft.config), draft.config.get("modules_to_save")
    if isinstance(saved, list):
        matcher, texts = Matcher("modules_to_save"), list(others)
        config["modules_to_save"] = [name for name in saved if matcher.stands_in(f".{name}.", texts)] or None
    draft = replace(draft, config=config)
    many = f"{len(gone)} copies" if len(gone) > 1 else "a copy"
    more = f" and {len(gone) - MOST_NAMES} more" if len(gone) > MOST_NAMES else ""
    what = f"{many} of the base's own weights left out: {', '.join(islice(gone, MOST_NAMES))}{more}"
    return draft.changed(
        "copies", what, "they equal the base's weights, and engines refuse or ignore them", others=others
    )


def weights(adapter: Adapter) -> dict[str, TensorInfo]:
    """The tensors that may be copies, by the parameter of the base that each stands for."""
    keys = {name: key for name, key in adapter.keys.items() if key.part in PARTS}
    return {f"{key.module}.{key.param}": adapter.tensors[name] for name, key in keys.items()}


def kept(aim: Aim) -> Iterator[Refusal]:
    """Why weights that an engine refuses are no copies that can be left out."""
    names = [tensor.name for tensor in weights(aim.adapter).values()]
    if trained := [name for name in names if aim.copies.get(name) is False]:
        yield Refusal(f"{trained[0]} is not the base's own weight: it was trained, or belongs to another base", MERGE)
    if unknown := [name for name in names if name not in aim.copies]:
        hint = "give --base a folder with the model's safetensors: copies of its own weights can be left out"
        yield Refusal(f"whether {unknown[0]} is the base's own weight is unknown", hint)
