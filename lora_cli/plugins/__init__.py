"""Entry points inside inference engines: adapters that the engine gets at the first request for their name."""

import os

MANIFEST, RESOLVE = "LORA_CLI_MANIFEST", "LORA_CLI_RESOLVE"
"""The variables of ``--manifest``, and of patterns for other names: a plugin does nothing without one of them."""


def is_configured() -> bool:
    """Whether the environment says which adapters there are."""
    return bool(os.environ.get(MANIFEST) or os.environ.get(RESOLVE, "").strip())
