"""The checks, one function each: files LC1xx, config LC2xx, tensors LC3xx, serving LC4xx, values LC5xx, supply LC6xx.

Adding one is a function under ``@check`` in one of these modules, and a case in ``tests/checks``.
"""

import re
from collections.abc import Sequence

from lora_cli.checks import base, config, files, serving, supply, tensors, values
from lora_cli.checks.check import Check
from lora_cli.did_you_mean import nearest
from lora_cli.errors import UsageError

_MODULES = (files, config, tensors, base, serving, values, supply)

CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (one for module in _MODULES for one in vars(module).values() if isinstance(one, Check)),
        key=lambda one: one.code,
    )
)
"""All rules, in the order in which they are run and listed: by code."""

UNREAD = frozenset({"LC101", "LC102", "LC104", "LC105", "LC106", "LC107", "LC108", "LC109"})
"""Rules that report why a config or weights were not read. They always run: others are skipped, which is not ok."""

ON_REQUEST = frozenset({"LC605"})
"""Rules that hold of nearly every adapter: they run where ``--select`` or a policy asks for them."""


def find(selector: str) -> tuple[Check, ...]:
    """The rules that a selector matches: a code, a prefix of codes (``LC3``), or a name.

    Raises:
        UsageError: it matches none.
    """
    found = tuple(rule for rule in CHECKS if selector and rule.matches(selector))
    if not found:
        raise UsageError(f"unknown rule {selector!r}", hint=_selector_hint(selector))
    return found


def _selector_hint(selector: str) -> str:
    """A hint for a selector that matches nothing: the range of codes with its first digit, or the nearest name."""
    if group := re.match(r"LC\d", selector.strip().upper()):
        codes = [rule.code for rule in CHECKS if rule.code.startswith(group[0])]
        return f"{group[0]}xx are {codes[0]} to {codes[-1]}" if codes else "lora-cli rules lists them all"
    close = nearest(selector, [word for rule in CHECKS for word in (rule.code, rule.name)])
    return f"did you mean {close}?" if close else "lora-cli rules lists them all"


def choose(select: Sequence[str] = (), ignore: Sequence[str] = (), *, pinned: bool = False) -> tuple[Check, ...]:
    """The rules of ``select`` and ``UNREAD`` without those of ``ignore``, in order of code.

    Without ``select`` all but those that are on request; also these if everything must be ``pinned``. Each entry may
    contain several selectors, separated by commas.

    Raises:
        UsageError: a selector matches no rule.
    """
    usual = {rule for rule in CHECKS if (rule.code in UNREAD if select else pinned or rule.code not in ON_REQUEST)}
    chosen = (matching(select) | usual) - matching(ignore)
    return tuple(rule for rule in CHECKS if rule in chosen)


def matching(selectors: Sequence[str]) -> set[Check]:
    """The rules that any of these matches; raises as ``choose``."""
    words = [word.strip() for selector in selectors for word in selector.split(",")]
    return {rule for word in words if word for rule in find(word)}
