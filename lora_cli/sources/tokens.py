"""The values of the variables that a rule of the settings names for its secrets."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lora_cli.errors import UsageError
from lora_cli.redaction import remember

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule


def token_of(rule: "SourceRule | None", environ: Mapping[str, str]) -> str:
    """The value of the variable that the ``token_env`` of ``rule`` names; "" where it names none.

    Raises:
        UsageError: the variable is not set, or what is in it cannot be a token.
    """
    return secret_in(rule.token_env, "token_env", rule, environ) if rule is not None and rule.token_env else ""


def secret_in(name: str, key: str, rule: "SourceRule", environ: Mapping[str, str]) -> str:
    """The value of the variable ``name``, which ``key`` of ``rule`` names; raises as ``token_of``."""
    secret = environ.get(name, "").strip()
    if not secret:
        hint = f"set it, or remove {key} from the rule for {rule.match} in the settings file"
        raise UsageError(f"the variable {name} is not set, which the settings name for a token", hint=hint)
    return checked_token(secret, name)


def checked_token(token: str, found_in: str) -> str:
    """``token``, which no message will repeat from now on; ``UsageError`` if it cannot be one."""
    if not re.fullmatch(r"[!-~]{1,4000}", token):
        hint = "a token is printable ASCII without spaces"
        raise UsageError(f"the value in {found_in} is not a valid token", hint=hint)
    remember(token)
    return token
