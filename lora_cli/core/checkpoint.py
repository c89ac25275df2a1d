"""Which checkpoint of a training run is asked for: one by its number, or the latest."""

import re

LATEST = "latest"
"""What asks for the checkpoint with the highest number (``fetch.checkpoint`` finds it)."""

_NUMBER = r"\d{1,18}"
FOLDER = re.compile(rf"checkpoint-({_NUMBER})", re.ASCII)
"""What the Trainer of transformers calls the folder of a checkpoint."""


def checked(checkpoint: str) -> str:
    """``checkpoint`` itself.

    Raises:
        ValueError: it is neither a number nor ``latest``.
    """
    if checkpoint != LATEST and not re.fullmatch(_NUMBER, checkpoint, re.ASCII):
        raise ValueError(f"{checkpoint[:60]!r} is neither a number nor {LATEST!r}")
    return checkpoint


def folder_of(checkpoint: str) -> str:
    """The folder of a checkpoint by its number; "" for the latest, which only a listing tells, and for none."""
    return "" if checkpoint in {"", LATEST} else f"checkpoint-{checkpoint}"
