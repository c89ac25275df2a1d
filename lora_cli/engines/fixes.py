"""Texts of fixes that several engines have in common."""

MERGE = "merge it into the base (merge_and_unload of PEFT) and serve that as a model, or train without it"
OTHER_BASE = "validate against the base that it was trained on"
NUMBER = "write the number that the adapter was trained with"
BASE_CHANGED = "convert it with PEFT's path_initial_model_for_weight_conversion, which leaves the base unchanged"
SAVE_AGAIN = "save the adapter again"
NAMES = f"rewrites the names of LoRA weights; if they are not LoRA weights, {MERGE}"
NUMBER_WRITTEN = "writes it as a number, if it is one"
OTHER_SERVER = "serve it with a server for such models"
ALONE = "publish the adapter without them: `lora-cli fetch --publish`"


def repair(engine: str, what: str, *, by_base: bool = False) -> str:
    """The fix that ``lora-cli repair`` does ``what`` for ``engine``; ``by_base``: only with ``--base``."""
    return f"`lora-cli repair --engine {engine}{' --base BASE' if by_base else ''}` {what}"
