"""HTML, put together so that nothing which an adapter says can be markup: text is escaped where it enters."""

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

from lora_cli.core.text import safe

VOID = frozenset({"meta", "col", "br"})


class Markup(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child]"


def tag(name: str, /, *children: Child, **attributes: str | int | float | None) -> Markup:
    """An element. A trailing ``_`` is left out of an attribute's name, others are ``-``; None leaves one out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(safe(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{said}>" if name in VOID else f"<{name}{said}>{joined(children)}</{name}>")


def joined(children: Iterable[Child], between: str = "") -> Markup:
    """One piece of HTML of many; what is no markup is escaped."""
    parts = []
    for child in children:
        if isinstance(child, str):
            parts.append(child if isinstance(child, Markup) else escape(safe(child), quote=False))
        else:
            parts.append(joined(child))
    return Markup(between.join(parts))
