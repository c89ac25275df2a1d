"""The repairs of an adapter, in memory: none of them changes ``scaling · B @ A`` of a module.

Names become those that PEFT writes (and, with a base, those of its modules), copies of the base's own weights are left
out, and scales are folded: one rank and one scale for all modules, without rsLoRA and patterns.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import parse_config
from lora_cli.adapter.names import INFIXES, PEFT_PREFIX, Key, last_name
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import OTHER_BASE, BaseModel
from lora_cli.checks.check import MERGE, SAVE_AGAIN
from lora_cli.engines.name_resolution import LAYER
from lora_cli.errors import FormatError
from lora_cli.json_schema import Count
from lora_cli.peft.targets import Scale, scales
from lora_cli.text import counted, names

Array = NDArray[Any]

DTYPES = ("float32", "float16", "bfloat16")
"""The types that tensors can be rounded to."""

FLOATS = frozenset({*DTYPES, "float64", "float8_e4m3fn", "float8_e5m2"})
"""The types of factors that can be scaled."""

SAVED = frozenset({"base_layer", "saved"})
"""The parts of an adapter that may be a weight of the base."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was repaired."""

    step: Literal["files", "names", "base", "copies", "scales", "dtype"]
    what: str
    why: str
    modules: Count = 0
    """The number of modules that changed; 0 for the config or the files."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that cannot be repaired without changing what the adapter does."""

    what: str
    hint: str


@dataclass(slots=True)
class Draft:
    """An adapter while it is rewritten.

    ``tensors`` are by the names that are written. ``modules`` maps the path of each module with an update to the one
    that it was read under; ``original`` is the config as it was read.
    """

    config: dict[str, Any]
    tensors: dict[str, Array]
    modules: dict[str, str]
    original: Mapping[str, Any]
    changes: list[Change] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def trained(self) -> dict[str, Scale]:
        """The rank and the scale that each of ``modules`` was trained with. Raises ``FormatError``."""
        found = scales(parse_config(self.original), self.modules.values())
        return {module: found[old] for module, old in self.modules.items()}

    @property
    def scales_may_move(self) -> bool:
        """Whether patterns in the config may match other modules than before: their names have changed."""
        patterns = self.config.get("rank_pattern") or self.config.get("alpha_pattern")
        return bool(patterns) and any(module != old for module, old in self.modules.items())

    def factors(self, module: str) -> tuple[str, str]:
        """The names of A ``[r, d_in]`` and B ``[d_out, r]`` of ``module``."""
        found = f"{PEFT_PREFIX}{module}.lora_A.weight", f"{PEFT_PREFIX}{module}.lora_B.weight"
        embedding = f"{PEFT_PREFIX}{module}.lora_embedding_A", f"{PEFT_PREFIX}{module}.lora_embedding_B"
        return found if found[0] in self.tensors else embedding


def named_as_peft(
    adapter: Adapter, config: Mapping[str, Any], tensors: Mapping[str, Array], base: BaseModel | None
) -> Draft:
    """The first draft: every tensor under the name that PEFT writes, in the base's modules if ``base`` is known."""
    draft = Draft(dict(config), {}, {}, config)
    if lone := [module for module, pair in adapter.pairs.items() if pair.a is None or pair.b is None]:
        draft.refusals.append(Refusal(f"lora_A or lora_B is missing: {names(lone, 8)}", SAVE_AGAIN))
    moved = {} if base is None else dict(_moves(adapter, base))
    draft.modules = {moved.get(module, module): module for module in adapter.pairs}
    for name, key in adapter.keys.items():
        new = _name(key)
        if key.module in moved:
            new = PEFT_PREFIX + moved[key.module] + new[len(PEFT_PREFIX) + len(key.module) :]
        draft.tensors[new] = tensors[name]
    if len(draft.tensors) < len(adapter.keys) or len(draft.modules) < len(adapter.pairs):
        draft.refusals.append(Refusal("two tensors would have one name", OTHER_BASE if moved else SAVE_AGAIN))
    known = [key for key in adapter.keys.values() if key.part != "unknown"]
    for what, odd in (
        (f"the prefix {PEFT_PREFIX} added to names without it", [key for key in known if not key.prefix]),
        (f"the repeated prefix {PEFT_PREFIX} removed", [key for key in known if len(key.prefix) > len(PEFT_PREFIX)]),
        ("the adapter's own name removed from names", [key for key in known if key.adapter_name]),
        ("prefixes of wrappers removed from names", [key for key in known if key.infixes]),
    ):
        if odd:
            why = "engines and PEFT look up tensors by the names that PEFT writes"
            draft.changes.append(Change("names", what, why, len({key.module for key in odd})))
    if moved:
        if isinstance(targets := config.get("target_modules"), list):
            draft.config["target_modules"] = [moved.get(target, target) for target in targets]
        elif targets is not None:
            draft.config["target_modules"] = sorted({last_name(module) for module in draft.modules})
        old, new = next(iter(moved.items()))
        what = f"modules renamed as in the base: {old} → {new}"
        draft.changes.append(Change("names", what, "their old names do not exist in the base", len(moved)))
    return draft


def _name(key: Key) -> str:
    """The name that PEFT writes to disk for the tensor of ``key``."""
    if key.canonical or key.part == "unknown":
        return key.name
    rest = ".".join(one for one in key.name.split(".") if one not in INFIXES).removeprefix("module.")
    while rest.startswith(PEFT_PREFIX):
        rest = rest.removeprefix(PEFT_PREFIX)
    if key.adapter_name and key.part == "saved":
        rest = rest.replace(f".modules_to_save.{key.adapter_name}.", ".", 1)
    elif key.adapter_name:
        rest = key.module + rest[len(key.module) :].replace(f".{key.adapter_name}", "", 1)
    return PEFT_PREFIX + rest


def _moves(adapter: Adapter, base: BaseModel) -> Iterator[tuple[str, str]]:
    """Each module that the base has under another path only, and that path.

    It is found by the name of its layers, its number and what follows (``layers.3.self_attn.q_proj``), if the base has
    that once and as wide as the factors: by names alone an adapter of another model would match, too.
    """
    ends = defaultdict(list)
    for path in base.modules:
        if found := LAYER.search(path):
            ends[path[found.start("stack") :]].append(path)
    known = {path.removesuffix(".weight") for path in base.parameters} | base.modules.keys()
    for module, pair in adapter.pairs.items():
        if module not in known and (found := LAYER.search(module)):
            fitting = [
                path
                for path in ends[module[found.start("stack") :]]
                if (base.modules[path].d_in, base.modules[path].d_out) == pair.widths
            ]
            if len(fitting) == 1:
                yield module, fitting[0]


def saved_weights(adapter: Adapter) -> dict[str, TensorInfo]:
    """The tensors that may be copies of the base's weights, by the parameter that each replaces."""
    keys = {name: key for name, key in adapter.keys.items() if key.part in SAVED}
    return {f"{key.module}.{key.param}": adapter.tensors[name] for name, key in keys.items()}


def drop_copies(draft: Draft, adapter: Adapter, copies: Mapping[str, bool]) -> None:
    """Leaves out the base's own weights; ``copies`` maps saved tensors to whether they equal the base's."""
    same = [_name(adapter.keys[name]) for name, equal in copies.items() if equal]
    for name in same:
        draft.tensors.pop(name, None)
    if same:
        if isinstance(saved := draft.config.get("modules_to_save"), list):
            left = [name for name in saved if any(f".{name}." in f".{tensor}" for tensor in draft.tensors)]
            draft.config["modules_to_save"] = left or None
        what = f"{'copies' if len(same) > 1 else 'a copy'} of the base's own weights left out: {names(same, 8)}"
        why = "they equal the base's weights, and engines refuse or ignore them"
        draft.changes.append(Change("copies", what, why))


def copy_refusals(adapter: Adapter, copies: Mapping[str, bool]) -> Iterator[Refusal]:
    """Why saved weights that an engine refuses cannot be left out as copies."""
    saved = [tensor.name for tensor in saved_weights(adapter).values()]
    if trained := [name for name in saved if copies.get(name) is False]:
        yield Refusal(f"{trained[0]} is not the base's own weight: it was trained, or belongs to another base", MERGE)
    if unknown := [name for name in saved if name not in copies]:
        hint = "give --base a folder with the model's safetensors: copies of its own weights can be left out"
        yield Refusal(f"whether {unknown[0]} is the base's own weight is unknown", hint)


def _why_not_folded(draft: Draft, stated: Mapping[str, Scale], ranks: Mapping[str, int]) -> Refusal | None:
    """Why scales cannot be folded: of the ``ranks`` that the factors have, 0 is of others than two matrices."""
    if absent := [name for name in ("r", "lora_alpha") if draft.config.get(name) is None]:
        return Refusal(f"{absent[0]} is missing: the trained scale is unknown", SAVE_AGAIN)
    if draft.config.get("target_parameters") or not all(ranks.values()):
        return Refusal("fused experts and block factors keep their rank and scale", MERGE)
    stored = {draft.tensors[name].dtype.name for module in ranks for name in draft.factors(module)}
    if odd := stored - FLOATS:
        return Refusal(f"factors are stored as {min(odd)}, which is not scaled", SAVE_AGAIN)
    if unknown := [module for module, rank in ranks.items() if rank != stated[module].r]:
        one, also = unknown[0], f", and {counted(len(unknown) - 1, 'more module')}" if len(unknown) > 1 else ""
        what = f"{one}: its rank is {ranks[one]}, but {stated[one].r} in the config: the trained scale is unknown{also}"
        return Refusal(what, SAVE_AGAIN)
    return None


def fold_scales(draft: Draft) -> None:
    """One rank and one scale for all modules, which every engine reads: the rest of a scale goes into B.

    Smaller ranks are padded with zeros. The common scale is the most frequent one, so that few factors are rounded.
    """
    if draft.refusals or not draft.modules:
        return
    try:
        stated = draft.trained()
    except FormatError as error:
        hint = error.hint or "write the values that it was trained with"
        draft.refusals.append(Refusal(f"{error.where}: {error.reason}", hint))
        return
    ranks = {}
    for module in draft.modules:
        a, b = (draft.tensors[name] for name in draft.factors(module))
        ranks[module] = a.shape[0] if a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] else 0
    if (refusal := _why_not_folded(draft, stated, ranks)) is not None:
        draft.refusals.append(refusal)
        return
    r = max(ranks.values())
    trained = {module: scale.scaling for module, scale in stated.items()}
    # A scale of 0 fits any alpha, and an alpha of 0 fits no other scale.
    common = Counter([one for one in trained.values() if one] or [0.0]).most_common(1)[0][0]
    alpha = common * r
    if not math.isfinite(alpha):
        draft.refusals.append(Refusal("an alpha for the same scale would be too large for a float", SAVE_AGAIN))
        return
    folded = 0
    for module, rank in ranks.items():
        (name_a, name_b), factor = draft.factors(module), trained[module] / common if common else 0.0
        a, b = draft.tensors[name_a], draft.tensors[name_b]
        if not math.isclose(factor, 1, rel_tol=1e-12):
            folded += 1
            b = _in_range(draft, name_b, b.astype("f8") * factor, b.dtype.name)
        draft.tensors[name_a] = np.pad(a, ((0, r - rank), (0, 0)))
        draft.tensors[name_b] = np.pad(b, ((0, 0), (0, r - rank)))
    # A square root that is squared again is not exact.
    written = round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha
    new: dict[str, Any] = {"r": r, "lora_alpha": written, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    was = draft.config
    told = [f"{name}: {was.get(name)} → {new[name]}" for name in ("r", "lora_alpha") if was.get(name) != new[name]]
    told += [f"{name} emptied" for name in ("use_rslora", "rank_pattern", "alpha_pattern") if was.get(name)]
    told += [f"ranks of {count} padded with zeros"] if (count := sum(rank < r for rank in ranks.values())) else []
    told += [f"scales of {counted(folded, 'module')} folded into lora_B"] if folded else []
    if told:
        why = "every engine reads one rank and one scale for all modules the same way"
        draft.changes.append(Change("scales", ", ".join(told), why, len(draft.modules)))
    draft.config |= {name: value for name, value in new.items() if name in draft.config or value}


def round_tensors(draft: Draft, dtype: str) -> None:
    """Every float in ``dtype``, one of ``DTYPES``."""
    rounded = 0
    for name, tensor in draft.tensors.items():
        if tensor.dtype.name != dtype and tensor.dtype.name.startswith(("float", "bfloat")):
            rounded += 1
            draft.tensors[name] = _in_range(draft, name, tensor, dtype)
    if rounded:
        draft.changes.append(Change("dtype", f"{counted(rounded, 'tensor')} rounded to {dtype}", "--dtype asks for it"))


def _in_range(draft: Draft, name: str, values: Array, dtype: str) -> Array:
    """``values`` rounded to ``dtype``; the draft is refused if one is then infinite."""
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    if np.isinf(rounded).sum() > np.isinf(values).sum():
        hint = "write it with --dtype float32 or bfloat16, which have a larger range"
        draft.refusals.append(Refusal(f"{name} has values beyond the range of {dtype}", hint))
    return rounded
