"""Modules that the base has under another path: nested differently, packed into one module, or split.

A module is matched by the name of its layers, its number and what follows (``layers.3.self_attn.q_proj``), if the base
has that once and with the shapes of the factors: by names alone an adapter of another model would match too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from lora_cli.adapter.names import PEFT_PREFIX, last_name
from lora_cli.base.base_model import OTHER_BASE, BaseModel
from lora_cli.engines.name_resolution import LAYER
from lora_cli.engines.profile import PACKED, packed_in
from lora_cli.grouping import by_key
from lora_cli.repair.draft import Draft, RepairContext, UpdateRecipe, assembled, rows_of, scaled


def match_base_paths(draft: Draft, context: RepairContext) -> Draft:
    """The draft with the modules under the base's paths; those that match none stay as they are."""
    base = context.base
    if base is None:
        return draft
    known = frozenset(base.modules) | {path.removesuffix(".weight") for path in base.parameters}
    lost = [module for module, one in draft.factors.items() if one.plain and module not in known]
    parents = _parents(base)
    moved: dict[str, str] = {}
    for module in lost:
        parent, _, leaf = module.rpartition(".")
        home = _new_parent(parent, leaf, parents, base, draft.factors[module])
        if home is not None and home != parent:
            moved[module] = f"{home}.{leaf}" if home else leaf
    draft = _rename(draft, moved)
    return _pack(_split(draft, base), base)


def _parents(base: BaseModel) -> Mapping[str, list[str]]:
    """The base's parents of modules by their end from the name of the layers on (``layers.0.mlp``)."""
    return by_key((_tail(path), path) for path in dict.fromkeys(name.rpartition(".")[0] for name in base.modules))


def _tail(parent: str) -> str:
    layer = LAYER.search(f"{parent}.")
    return parent[layer.start("stack") :] if layer is not None else ""


def _new_parent(
    parent: str, leaf: str, parents: Mapping[str, list[str]], base: BaseModel, factors: UpdateRecipe
) -> str | None:
    """The path of the base under which this module fits; None if there is none, or more than one."""
    fitting = [home for home in parents.get(_tail(parent), ()) if _fits(home, leaf, base, factors)]
    return fitting[0] if len(fitting) == 1 else None


def _fits(home: str, leaf: str, base: BaseModel, factors: UpdateRecipe) -> bool:
    """Whether the base has that module there, its parts, or the whole that it is a part of, as wide as the factors."""
    wide = factors.a.shape[1], factors.b.shape[0]
    under = f"{home}." if home else ""
    if (own := base.modules.get(under + leaf)) is not None:
        return (own.d_in, own.d_out) == wide
    if _are_its_parts([under + part for part in PACKED.get(leaf, ())], factors, base):
        return True
    whole = base.modules.get(under + packed_in(leaf))
    return whole is not None and whole.d_in == wide[0] and wide[1] <= whole.d_out


def _rename(draft: Draft, moved: Mapping[str, str]) -> Draft:
    if not moved:
        return draft
    names = [moved.get(module, module) for module in draft.factors]
    if len(set(names)) < len(names):
        return draft.refused("two modules would have the same name on this base", OTHER_BASE)
    factors = {moved.get(module, module): one for module, one in draft.factors.items()}
    others = {_new_name(name, moved): recipe for name, recipe in draft.others.items()}
    old, new = next(iter(moved.items()))
    what = f"modules renamed as in the base: {old} → {new}"
    return draft.changed(
        "places", what, "their old names do not exist in the base", len(moved), factors=factors, others=others
    )


def _new_name(name: str, moved: Mapping[str, str]) -> str:
    path = name.removeprefix(PEFT_PREFIX)
    old = path
    while dot := old.rfind(".") + 1:
        old = old[: dot - 1]
        if old in moved:
            return PEFT_PREFIX + moved[old] + path[len(old) :]
    return name


def _split(draft: Draft, base: BaseModel) -> Draft:
    """Packed modules split into those that the base has instead: each gets A, and its rows of B."""
    factors: dict[str, UpdateRecipe] = {}
    split = []
    for module, one in draft.factors.items():
        parent, dot, leaf = module.rpartition(".")
        parts = [f"{parent}{dot}{part}" for part in PACKED.get(leaf, ())]
        if module in base.modules or not _are_its_parts(parts, one, base):
            factors[module] = one
            continue
        split.append(module)
        start = 0
        for part in parts:
            stop = start + base.modules[part].d_out
            factors[part] = replace(one, b=rows_of(one.b, start, stop))
            start = stop
    if not split:
        return draft
    what = f"packed modules split as in the base: {split[0]}"
    return draft.changed("places", what, "the base has no module of that name", len(split), factors=factors)


def _are_its_parts(parts: Sequence[str], one: UpdateRecipe, base: BaseModel) -> bool:
    """Whether the base has all these modules, and their widths add up to those of the packed factors."""
    found = [base.modules[part] for part in parts if part in base.modules]
    wide = {part.d_in for part in found} == {one.a.shape[1]} and sum(part.d_out for part in found) == one.b.shape[0]
    return one.plain and bool(parts) and len(found) == len(parts) and wide


def _pack(draft: Draft, base: BaseModel) -> Draft:
    """Modules packed as in the base: A's stacked, B's on the diagonal, with one scale."""
    groups: dict[str, dict[str, UpdateRecipe]] = {}
    for module, one in draft.factors.items():
        parent, dot, leaf = module.rpartition(".")
        whole = f"{parent}{dot}{packed_in(leaf)}"
        if module not in base.modules and whole in base.modules and one.plain:
            groups.setdefault(whole, {})[leaf] = one
    packed = {
        whole: _packed_factors(whole, found, base) for whole, found in groups.items() if whole not in draft.factors
    }
    built = {whole: one for whole, one in packed.items() if one is not None}
    if not built:
        return draft
    gone = {f"{whole.rpartition('.')[0]}.{leaf}" for whole in built for leaf in groups[whole]}
    factors = {module: one for module, one in draft.factors.items() if module not in gone} | built
    what = f"modules packed as in the base: {next(iter(built))}, whose rank is the sum of its parts"
    return draft.changed("places", what, "the base has them as one module", len(gone), factors=factors)


def _packed_factors(whole: str, found: Mapping[str, UpdateRecipe], base: BaseModel) -> UpdateRecipe | None:
    """The update of a packed module; None if the widths of its parts are unknown."""
    names = PACKED[last_name(whole)]
    heights = dict(_heights(names, found, base.modules[whole].d_out))
    if not heights:
        return None
    parts = [found[name] for name in names if name in found]
    tops = [sum(heights[name] for name in names[:n]) for n in range(len(names)) if names[n] in found]
    *starts, rank = accumulate((one.r for one in parts), initial=0)
    width, scaling = max(one.a.shape[1] for one in parts), parts[0].scaling
    a = assembled([one.a for one in parts], [(start, 0) for start in starts], (rank, width))
    scaled_b = [scaled(one.b, one.scaling / scaling) for one in parts]
    b = assembled(scaled_b, list(zip(tops, starts, strict=True)), (base.modules[whole].d_out, rank))
    return UpdateRecipe(a, b, scaling)


def _heights(names: Sequence[str], found: Mapping[str, UpdateRecipe], total: int) -> Iterator[tuple[str, int]]:
    """How many rows each part has: those of its factors, or those of its pair (k and v, gate and up)."""
    known = {name: one.b.shape[0] for name, one in found.items()}
    for one, other in (("k_proj", "v_proj"), ("gate_proj", "up_proj")):
        if (one in known) != (other in known) and one in names:
            known.setdefault(one, known.get(other, 0))
            known.setdefault(other, known[one])
    missing = [name for name in names if name not in known]
    if len(missing) == 1:
        known[missing[0]] = total - sum(known.values())
    elif len(missing) == 2 and names[0] in known:
        known |= dict.fromkeys(missing, (total - known[names[0]]) // 2)
    if set(known) == set(names) and sum(known.values()) == total and min(known.values()) > 0:
        yield from known.items()
