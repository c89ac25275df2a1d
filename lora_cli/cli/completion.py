"""Shell completion of values, for typer: engines, rules and choices."""

from collections.abc import Callable
from typing import Any


def engines(incomplete: str) -> list[str]:
    """Names of engines; after ``@`` the versions with a profile, newest first."""
    from lora_cli.engines import ENGINES, profiles_of

    name, at, _ = incomplete.partition("@")
    if not at:
        return list(ENGINES)
    return [f"{name}@{profile.version}" for profile in profiles_of(ENGINES[name])] if name in ENGINES else []


def rules(incomplete: str) -> list[tuple[str, str]]:
    """Codes of rules; their names if no code matches."""
    from lora_cli.checks import CHECKS

    codes = [(rule.code, rule.name) for rule in CHECKS if rule.code.startswith(incomplete)]
    return codes or [(rule.name, rule.code) for rule in CHECKS if rule.name.startswith(incomplete)]


ENGINE: dict[str, Any] = {"metavar": "NAME[@VERSION]", "autocompletion": engines}
RULE: dict[str, Any] = {"metavar": "RULE", "autocompletion": rules}
"""Parameters of ``option`` for values of these kinds: the metavar and the completion."""


def choices(*known: str) -> Callable[[], list[str]]:
    """Completes to one of these words."""
    return lambda: list(known)
