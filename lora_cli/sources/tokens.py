"""The token that a manifest's rule for a source names by its variable."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lora_cli.errors import UsageError
from lora_cli.redaction import remember
from lora_cli.sources.trusted import NOTHING, Trust, check_encrypted, check_variable

if TYPE_CHECKING:
    from lora_cli.documents.manifest import SourceRule


def token_of(rule: "SourceRule | None", environ: Mapping[str, str], trust: Trust = NOTHING) -> str:
    """The value of the variable that ``rule`` names, for the server that it names; "" where it names none.

    Raises:
        Refused: a manifest may not read that variable, or everybody on the way could read the token.
        UsageError: the variable is not set, or what is in it cannot be a token.
    """
    if rule is None or rule.token_env is None:
        return ""
    check_variable(rule, trust)
    if rule.endpoint_url:
        check_encrypted(rule.endpoint_url)
    token = environ.get(rule.token_env, "").strip()
    if not token:
        hint = f"set it, or leave token_env out of the rule for {rule.match}"
        raise UsageError(f"the manifest names the variable {rule.token_env} for a token, and it is not set", hint=hint)
    # The value is not repeated, and never reaches a library that would repeat it in its own error.
    if not re.fullmatch(r"[!-~]{1,4000}", token):
        hint = "a token is one word of printable ASCII"
        raise UsageError(f"what is in {rule.token_env} cannot be a token", hint=hint)
    remember(token)
    return token
