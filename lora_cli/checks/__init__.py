"""The checks, one function each: files LC1xx, config LC2xx, tensors LC3xx, serving LC4xx, values LC5xx, supply LC6xx.

Adding one is a function under ``@check`` in one of these modules, and a case in ``tests/checks``.
"""

from collections.abc import Sequence

from lora_cli.checks import base, config, files, serving, supply, tensors, values
from lora_cli.checks.check import Check
from lora_cli.errors import UsageError
from lora_cli.text import nearest

_MODULES = (files, config, tensors, base, serving, values, supply)

CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (one for module in _MODULES for one in vars(module).values() if isinstance(one, Check)),
        key=lambda one: one.code,
    )
)
"""All checks, in the order in which they are run and listed: by code."""

UNREAD = frozenset({"LC101", "LC102", "LC104", "LC105", "LC106", "LC107", "LC108", "LC109"})
"""Checks that report why a config or weights were not read. They always run: others are skipped, which is not ok."""

ON_REQUEST = frozenset({"LC605"})
"""Checks that hold of nearly every adapter: they run where ``--select`` or a policy asks for them."""


def find(selector: str) -> tuple[Check, ...]:
    """The checks that a selector matches: a code, a prefix of codes (``LC3``), or a name.

    Raises:
        UsageError: it matches none.
    """
    found = tuple(check for check in CHECKS if selector and check.matches(selector))
    if not found:
        close = nearest(selector, [word for check in CHECKS for word in (check.code, check.name)])
        hint = f"did you mean {close}?" if close else "lora-cli rules lists them all"
        raise UsageError(f"unknown rule {selector!r}", hint=hint)
    return found


def choose(select: Sequence[str] = (), ignore: Sequence[str] = (), *, pinned: bool = False) -> tuple[Check, ...]:
    """The checks of ``select`` and ``UNREAD`` without those of ``ignore``, in order of code.

    Without ``select`` all but those that are on request; also these if everything must be ``pinned``. Each entry may
    contain several selectors, separated by commas.

    Raises:
        UsageError: a selector matches no check.
    """

    def matching(selectors: Sequence[str]) -> set[Check]:
        words = (word.strip() for selector in selectors for word in selector.split(","))
        return {check for word in words if word for check in find(word)}

    usual = {check for check in CHECKS if (check.code in UNREAD if select else pinned or check.code not in ON_REQUEST)}
    chosen = (matching(select) | usual) - matching(ignore)
    return tuple(check for check in CHECKS if check in chosen)
