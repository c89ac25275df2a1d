"""Modules in rows and columns: a grid of layers by kinds of modules for each stack of layers, and those outside."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lora_cli.core.grouping import by_key

USUAL = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "o_proj", "out_proj", "dense", "c_proj",
    "gate_proj", "up_proj", "gate_up_proj", "down_proj", "fc1", "fc2", "c_fc", "dense_h_to_4h", "dense_4h_to_h",
)  # fmt: skip
"""The order in which people expect the kinds; others follow as they come."""

DEEPEST = 12
"""Components of a path that are used to distinguish two kinds."""

LONGEST_NUMBER = 9


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module is: in ``layer`` of a ``stack`` (``model.layers``), or outside of layers (None).

    ``kind`` is its last name, with as many names before it as distinguish it from others of its stack; outside its
    path.
    """

    kind: str
    stack: str = ""
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """The modules of one stack: paths by layer and kind, several where a kind is there more than once (experts)."""

    stack: str
    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    cells: Mapping[tuple[int, str], tuple[str, ...]]


def module_positions(paths: Iterable[str]) -> dict[str, Place]:
    """Where each module is, in the order given."""
    split = {path: _split(path) for path in paths}
    inside: dict[str, dict[tuple[str, ...], None]] = {}
    for found in split.values():
        if found is not None:
            inside.setdefault(found[0], {})[found[2]] = None
    names = {stack: _short(tuple(rests)) for stack, rests in inside.items()}
    return {
        path: Place(path) if found is None else Place(names[found[0]][found[2]], found[0], found[1])
        for path, found in split.items()
    }


def _split(path: str) -> tuple[str, int, tuple[str, ...]] | None:
    """The stack, the layer, and the names behind it without further numbers (of experts); None outside of layers."""
    components = path.split(".")
    for i, component in enumerate(components):
        if component.isascii() and component.isdigit() and len(component) <= LONGEST_NUMBER:
            rest = tuple(name for name in components[i + 1 :] if not name.isdigit())
            return (".".join(components[:i]), int(component), rest) if rest else None
    return None


def _short(rests: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """The shortest endings that distinguish the names."""
    short: dict[tuple[str, ...], str] = {}
    left = list(rests)
    for depth in range(1, DEEPEST + 1):
        endings = by_key((rest[-depth:], rest) for rest in left)
        short |= {found[0]: ".".join(ending) for ending, found in endings.items() if len(found) == 1}
        left = [rest for found in endings.values() if len(found) > 1 for rest in found]
    return short | {rest: ".".join(rest) for rest in left}


def grids(placed: Mapping[str, Place]) -> tuple[tuple[Grid, ...], tuple[str, ...]]:
    """A grid for each stack, the largest first, and the paths outside of layers."""
    stacks: dict[str, dict[tuple[int, str], list[str]]] = {}
    for path, place in placed.items():
        if place.layer is not None:
            stacks.setdefault(place.stack, {}).setdefault((place.layer, place.kind), []).append(path)
    result = [
        Grid(
            stack,
            tuple(sorted({layer for layer, _ in cells})),
            ordered(dict.fromkeys(kind for _, kind in cells)),
            {cell: tuple(found) for cell, found in cells.items()},
        )
        for stack, cells in stacks.items()
    ]
    result.sort(key=lambda grid: -len(grid.cells))
    return tuple(result), tuple(path for path, place in placed.items() if place.layer is None)


def ordered(kinds: Iterable[str]) -> tuple[str, ...]:
    """Kinds as people expect them."""
    order = {kind: number for number, kind in enumerate(USUAL)}
    return tuple(sorted(kinds, key=lambda kind: order.get(kind.rpartition(".")[2], len(order))))
