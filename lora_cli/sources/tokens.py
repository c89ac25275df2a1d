"""The token that a manifest's rule for a source names by its variable."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lora_cli.errors import UsageError

if TYPE_CHECKING:
    from lora_cli.core.manifest import SourceRule


def token_of(rule: "SourceRule | None", environ: Mapping[str, str]) -> str:
    """The value of the variable that ``rule`` names; "" where it names none.

    Raises:
        UsageError: the variable is not set, or what is in it cannot be a token.
    """
    if rule is None or rule.token_env is None:
        return ""
    token = environ.get(rule.token_env, "").strip()
    if not token:
        hint = f"set it, or leave token_env out of the rule for {rule.match}"
        raise UsageError(f"the manifest names the variable {rule.token_env} for a token, and it is not set", hint=hint)
    # The value is not repeated, and never reaches a library that would repeat it in its own error.
    if not re.fullmatch(r"[!-~]{1,4000}", token):
        hint = "a token is one word of printable ASCII"
        raise UsageError(f"what is in {rule.token_env} cannot be a token", hint=hint)
    return token
