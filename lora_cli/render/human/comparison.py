"""What ``inspect --diff`` says to people: one word, the configs, and how far the modules lie apart, the worst first."""

from collections.abc import Iterator, Sequence

from lora_cli.core.comparison import Comparison, ModuleComparison, Side, TensorComparison
from lora_cli.core.config_changes import FieldChange
from lora_cli.core.module_grid import ordered, places
from lora_cli.core.text import counted, cut, safe
from lora_cli.render.comparison_facts import EFFECTS, KINDS, MOST_NAMES, by_kind, farthest, share_of_a, total, values
from lora_cli.render.described import ranges
from lora_cli.render.text import columns, paint, pairs, wrap

STYLE = {"equal": "green", "scaled": "yellow", "related": "yellow", "unrelated": "red", "unknown": "red"}


MOST_MODULES = 10


def render_comparison(name: str, one: Comparison, width: int, *, colour: bool = False) -> str:
    """``name`` is A, the adapter that is inspected; B is the other."""
    lines = [paint("diff", "bold", colour=colour)]
    lines += pairs([("A", name), ("B", one.name)], width)
    first, *rest = wrap(f"{one.word}: {one.reason}", width, "    ", "  ")
    lines += ["", first.replace(one.word, paint(one.word, STYLE[one.word], colour=colour), 1), *rest]
    lines += wrap(one.hint, width, "    ", "  hint: ") if one.hint else []
    if one.total is not None:
        lines += ["", *pairs(total(one), width)]
    lines += ["", *_config(one.fields, width), *_headers(one, width), *_tensors(one.tensors, width)]
    lines += _groups(one.modules, width)
    return "\n".join(lines) + "\n"


def _config(fields: Sequence[FieldChange], width: int) -> list[str]:
    if not fields:
        return ["config: no field differs"]
    lines = [f"config: {counted(len(fields), 'field')} differ{'s' * (len(fields) == 1)}"]
    effect = ""
    for change in fields:
        if change.effect != effect:
            effect = change.effect
            lines.append(f"  {EFFECTS[effect]}")
        lines += wrap(f"{change.field}: {values(change)}", width, "      ", "    ")
    return lines


def _headers(one: Comparison, width: int) -> Iterator[str]:
    """Which modules are where, and what their headers and scales say that differs."""
    yield ""
    counts = f"{len(one.modules)} in both, {len(one.only_a)} only in A, {len(one.only_b)} only in B"
    yield from wrap(f"modules: {counts}", width, "  ", "")
    for side, alone in (("A", one.only_a), ("B", one.only_b)):
        for text in _gathered([module for module, _ in alone]):
            yield from wrap(f"only in {side}: {text}", width, "    ", "  ")
    for label, tell in (("rank", _rank), ("scaling", _scaling), ("dtype", _dtype), ("shape", _shape)):
        by_change: dict[str, list[str]] = {}
        for module in one.modules:
            if label in module.differing:
                by_change.setdefault(f"{tell(module.a)} -> {tell(module.b)}", []).append(module.path)
        for change, paths in list(by_change.items())[:MOST_NAMES]:
            whose = "all" if len(paths) == len(one.modules) else "; ".join(_gathered(paths))
            yield from wrap(f"{label} {change}: {whose}", width, "    ", "  ")
        if len(by_change) > MOST_NAMES:
            yield from _more(f"{len(by_change) - MOST_NAMES} other changes of {label}", width, "  ")


def _rank(side: Side) -> str:
    return "none" if side.r is None else str(side.r)


def _scaling(side: Side) -> str:
    return "none" if side.scaling is None else f"{side.scaling:.4g}"


def _dtype(side: Side) -> str:
    return " and ".join(side.dtypes) or "none"


def _shape(side: Side) -> str:
    return f"A {list(side.a or ())}, B {list(side.b or ())}"


def _gathered(paths: Sequence[str]) -> list[str]:
    """Modules by kind, with their layers: ``q_proj in layers 0-15 (16)``."""
    by_kind: dict[str, list[str]] = {}
    placed = places(paths)
    for path, place in placed.items():
        by_kind.setdefault(place.kind, []).append(path)
    told = []
    first = ordered(by_kind)[:MOST_NAMES]
    for kind in first:
        layers = sorted({layer for path in by_kind[kind] if (layer := placed[path].layer) is not None})
        where = f" in {'layer' if len(layers) == 1 else 'layers'} {cut(ranges(layers), 100)}" if layers else ""
        told.append(cut(safe(kind), 80) + where + (f" ({len(by_kind[kind])})" if len(by_kind[kind]) > 1 else ""))
    if len(by_kind) > MOST_NAMES:
        told.append(f"{len(paths) - sum(len(by_kind[kind]) for kind in first)} others")
    return told


def _tensors(tensors: Sequence[TensorComparison], width: int) -> Iterator[str]:
    apart = [one for one in tensors if not one.equal]
    if not tensors:
        return
    yield ""
    yield from wrap(f"beside the factors: {len(apart)} of {counted(len(tensors), 'tensor')} differ", width, "  ", "")
    apart.sort(key=lambda one: -(one.difference if one.difference is not None else float("inf")))
    for one in apart[:MOST_MODULES]:
        how = f"only in {one.within.upper()}" if one.within != "both" else one.reason
        how = how or (f"differs by {share_of_a(one.difference)}" if one.difference is not None else "differs")
        yield from wrap(f"{cut(safe(one.name), 160)}: {how}", width, "    ", "  ")
    if len(apart) > MOST_MODULES:
        yield from _more(f"{len(apart) - MOST_MODULES} more", width, "  ")


def _groups(modules: Sequence[ModuleComparison], width: int) -> Iterator[str]:
    """Kinds of modules by what they are to each other, the worst first; then the single modules that are worst."""
    if not modules:
        return
    groups = by_kind(modules)
    rows = groups[: 4 * MOST_MODULES]
    yield ""
    yield from _fitting(KINDS, rows, width)
    if len(groups) > len(rows):
        yield from _more(f"{len(groups) - len(rows)} more groups", width)
    if apart := farthest(modules):
        yield ""
        rows = apart[:MOST_MODULES]
        yield from _fitting(("farthest apart", *KINDS[2:]), rows, width)
        if len(apart) > MOST_MODULES:
            yield from _more(f"{len(apart) - MOST_MODULES} more that are not equal", width)
    for reason in list(dict.fromkeys(one.reason for one in modules if one.reason))[:MOST_NAMES]:
        number = sum(one.reason == reason for one in modules)
        yield from wrap(f"not compared: {counted(number, 'module')}, {reason}", width, "  ", "")


def _more(what: str, width: int, indent: str = "") -> list[str]:
    return wrap(f"and {what}, in --format json", width, indent + "  ", indent)


def _fitting(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table, or where it is too wide one row below the other."""
    lines = columns(head, rows)
    if max(map(len, lines)) <= width:
        return lines
    stacked = [head[0]]
    for row in rows:
        said = [f"{label} {value}" for label, value in zip(head[1:], row[1:], strict=True) if value != "-"]
        stacked += wrap(row[0], width, "    ", "  ")
        stacked += wrap(", ".join(said), width, "    ")
    return stacked
