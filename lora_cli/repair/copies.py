"""Weights of the base that were saved along: an embedding beside its factors, a module that was not trained after all.

PEFT saves the whole embedding wherever one is targeted. Where it equals the base's own nothing is lost without it.
"""

from lora_cli.core.frozen import replace
from lora_cli.repair.draft import Aim, Draft

STEP = "copies"


def without_copies(draft: Draft, aim: Aim) -> Draft:
    """The draft without what the base has bit by bit; what is another weight was trained, and is refused."""
    if not aim.copies:
        return draft
    trained = sorted(name for name, same in aim.copies.items() if not same and name in draft.others)
    if trained and aim.profile.engine.name != "peft":
        draft = draft.refused(
            f"{trained[0]} is not the base's own weight: it was trained, or belongs to another base",
            "merge it into the base and serve that as a model, or train without it",
        )
    gone = [name for name, same in aim.copies.items() if same and name in draft.others]
    if not gone:
        return draft
    others = {name: made for name, made in draft.others.items() if name not in gone}
    config, saved = dict(draft.config), draft.config.get("modules_to_save")
    if isinstance(saved, list):
        config["modules_to_save"] = [name for name in saved if any(f".{name}." in other for other in others)] or None
    draft = replace(draft, config=config)
    what = f"{len(gone)} copies of the base's own weights left out: {gone[0]}"
    return draft.changed(STEP, what, "they equal what the base has, and engines refuse or ignore them", others=others)
