"""An adapter's modules on a page: by kind, one by one, and what each kind takes of memory."""

from collections.abc import Iterable, Sequence, Sized
from itertools import islice

from lora_cli.core.base_model import HALF_BYTES
from lora_cli.core.inspection import Inspection
from lora_cli.core.module_facts import ModuleFacts, layer_of, leaf_of
from lora_cli.core.text import counted, size
from lora_cli.render.described import ranges
from lora_cli.render.html.markup import Child, Markup, tag
from lora_cli.render.html.page import folded, table

MOST_MODULES = 2000
"""Rows of the table of one adapter's modules; how many more there are is said."""

MOST_KINDS = 200
"""Rows of a table of kinds: no model has as many."""

NOT_KNOWN = "–"


def modules(one: Inspection) -> Child:
    """A row for each kind of module, and below it, folded, one for each module."""
    if not one.by_module:
        return ""
    header = ("kind", "layers", "modules", "r", "scaling", "d_in", "d_out", "dtype")
    kinds = _by_kind(one.by_module)
    rows = [
        (
            kind,
            ranges(sorted({layer for each in held if (layer := layer_of(each.module)) is not None})) or NOT_KNOWN,
            f"{len(held)}",
            _each(each.r for each in held),
            _each(each.scaling for each in held),
            _each(each.d_in for each in held),
            _each(each.d_out for each in held),
            ", ".join(dict.fromkeys(each.dtype for each in held)),
        )
        for kind, held in islice(kinds.items(), MOST_KINDS)
    ]
    by_kind = table("Modules by kind", header, rows, text=2)
    return [tag("h3", "Modules"), by_kind, _more(kinds), _all(one.by_module)]


def _more(kinds: Sized) -> Child:
    """How many kinds are not in a table."""
    more = len(kinds) - MOST_KINDS
    return tag("p", f"and {counted(more, 'more kind')} of modules") if more > 0 else ""


def _all(by_module: Sequence[ModuleFacts]) -> Markup:
    rows = [
        (
            each.module,
            _one(each.r),
            _one(each.scaling),
            _one(each.d_in),
            _one(each.d_out),
            each.dtype,
            f"{each.bytes:,}",
        )
        for each in by_module[:MOST_MODULES]
    ]
    more = len(by_module) - MOST_MODULES
    header = ("module", "r", "scaling", "d_in", "d_out", "dtype", "bytes")
    return folded(
        f"all {counted(len(by_module), 'module')}",
        table("Modules one by one", header, rows),
        tag("p", f"and {counted(more, 'more module')}: --format json has all") if more > 0 else "",
    )


def memory(one: Inspection) -> Child:
    """What the modules of each kind take of a slot, at their own ranks, in half precision."""
    whole = HALF_BYTES * sum(each.parameters for each in one.by_module)
    if not whole:
        return ""
    shares = {
        kind: HALF_BYTES * sum(each.parameters for each in held) for kind, held in _by_kind(one.by_module).items()
    }
    rows = [
        (kind, _bar(taken / whole), size(taken), f"{100 * taken / whole:.0f} %")
        for kind, taken in sorted(shares.items(), key=lambda item: -item[1])[:MOST_KINDS]
    ]
    said = (
        f"{size(whole)} for its own modules at their own ranks, in half precision. An engine's slots are as large as "
        "the highest rank and every module that it puts LoRA on ask for: --engine-args says how large."
    )
    table_ = table("A slot, by kind of module", ("kind", "", "takes", "share"), rows, text=2)
    return [tag("h3", "Memory"), tag("p", said), table_, _more(shares)]


def _bar(share: float) -> Markup:
    return tag("span", class_="bar", style=f"width:{100 * share:.1f}%")


def _by_kind(by_module: Iterable[ModuleFacts]) -> dict[str, list[ModuleFacts]]:
    kinds: dict[str, list[ModuleFacts]] = {}
    for each in by_module:
        kinds.setdefault(leaf_of(each.module), []).append(each)
    return kinds


def _each(values: Iterable[float | None]) -> str:
    """One value, or the least and the most."""
    known = [value for value in values if value is not None]
    if not known:
        return NOT_KNOWN
    low, high = min(known), max(known)
    return _one(low) if low == high else f"{_one(low)} to {_one(high)}"


def _one(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value:.6g}"
