"""How an adapter differs from another, on a page: one word, the configs, and how far the modules lie apart."""

from lora_cli.core.comparison import Comparison
from lora_cli.core.text import counted
from lora_cli.render.comparison_facts import EFFECTS, KINDS, by_kind, farthest, total, values
from lora_cli.render.html.markup import Child, tag
from lora_cli.render.html.page import badge, facts, folded, prose, table

BADGES = {"equal": "good", "scaled": "warning", "related": "warning", "unrelated": "error", "unknown": "error"}

MOST_ROWS = 500
"""Rows of each table; how many more there are is said."""


def comparison(name: str, one: Comparison | None) -> Child:
    """All that is said of it; ``name`` is A, the adapter that is inspected. Nothing where it was not asked for."""
    if one is None:
        return ""
    sides = f"{len(one.modules)} in both, {len(one.only_a)} only in A, {len(one.only_b)} only in B"
    rows = [("A", name), ("B", one.name), ("source of B", one.source), *total(one), ("modules", sides)]
    said = tag("p", badge(one.word, BADGES[one.word]), prose(one.reason))
    hint = tag("p", "hint: ", prose(one.hint)) if one.hint else ""
    return [tag("h3", f"Beside {one.name}"), said, hint, facts(rows), _config(one), _modules(one), _tensors(one)]


def _config(one: Comparison) -> Child:
    rows = [(change.field, EFFECTS[change.effect], values(change)) for change in one.fields[:MOST_ROWS]]
    return table("Fields of the config that differ", ("field", "effect", "A and B"), rows, text=3) if rows else ""


def _modules(one: Comparison) -> Child:
    if not one.modules:
        return ""
    apart = farthest(one.modules)
    more = len(apart) - MOST_ROWS
    return [
        table("Modules by kind", KINDS, by_kind(one.modules)[:MOST_ROWS]),
        folded(
            f"{counted(len(apart), 'module')} not equal",
            table("The farthest apart first", ("module", *KINDS[2:]), apart[:MOST_ROWS]),
            tag("p", f"and {counted(more, 'more module')}: --format json has all") if more > 0 else "",
        )
        if apart
        else "",
    ]


def _tensors(one: Comparison) -> Child:
    apart = [tensor for tensor in one.tensors if not tensor.equal]
    rows = [(tensor.name, tensor.within, tensor.reason or "differs") for tensor in apart[:MOST_ROWS]]
    return table("Tensors beside the factors that differ", ("tensor", "within", "how"), rows, text=3) if rows else ""
