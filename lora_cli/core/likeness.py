"""One word for what adapter B is to adapter A, and the reason for it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lora_cli.core.comparison import (
    KINSHIP,
    Comparison,
    Distance,
    ModuleComparison,
    Relation,
    alone,
    together,
    update_distance,
)
from lora_cli.core.config_changes import FieldChange
from lora_cli.core.module_grid import places
from lora_cli.core.text import counted

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def judged(one: Comparison) -> Comparison:
    """``one`` with its total, its word and the reason; pure."""
    if one.unread:
        return replace(one, word="unknown", reason=f"the values were not compared: {one.unread}")
    compared = [module for module in one.modules if module.update is not None]
    if not compared:
        word, reason = _nothing(one)
        return replace(one, word=word, reason=reason)
    total = together([
        *(one.update for one in compared if one.update is not None and math.isfinite(one.update.norm)),
        *(alone(module.norm or 0.0, in_a=True) for module in one.only_a),
        *(alone(module.norm or 0.0, in_a=False) for module in one.only_b),
    ])  # fmt: skip
    word, reason = _word(one, total)
    reason += _besides(word, one.fields)
    return replace(one, distance=update_distance(total), word=word, reason=reason)


def _nothing(one: Comparison) -> tuple[Relation, str]:
    if not one.modules and not one.only_a and not one.only_b:
        return "unrelated", "neither has factors of a LoRA"
    if not one.modules:
        counts = f"{counted(len(one.only_a), 'module', zero='0')} in A, {len(one.only_b)} in B"
        return "unrelated", f"no module is in both ({counts}){_elsewhere(one)}"
    if all("shape" in module.differing for module in one.modules):
        return "unrelated", "no module has the same shape in both"
    return "unknown", f"no update could be compared: {_reasons(one.modules)}"


def _elsewhere(one: Comparison) -> str:
    """Where both have the same kinds of modules in stacks of other names, as dialects and wrappers make them."""
    ours, theirs = (places(only.module for only in alone) for alone in (one.only_a, one.only_b))
    same = {(place.layer, place.kind) for place in ours.values()} & {(p.layer, p.kind) for p in theirs.values()}
    stacks = [next((p.stack for p in placed.values() if (p.layer, p.kind) in same), "") for placed in (ours, theirs)]
    if not all(stacks):
        return ""
    return f": A has its layers in {stacks[0][:80]}, B in {stacks[1][:80]}; under one name they would be compared"


def _word(one: Comparison, total: Distance) -> tuple[Relation, str]:
    counts = Counter(module.word for module in one.modules)
    apart, shared = _apart(one), sum(map(_is_shared, one.modules))
    multiples = bool(counts["scaled"])
    if counts.keys() <= {"equal", "scaled", "unknown"} and not apart:
        if left := counts["unknown"]:
            said = f"what was compared is {'a multiple' if multiples else 'equal'}"
            return "unknown", f"{said}, and {counted(left, 'module')} could not be: {_reasons(one.modules)}"
        return ("scaled", _why_scaled(one, total)) if multiples else ("equal", _why_equal(one))
    if counts.keys() <= {"equal", "scaled", "unknown"} and (shared or not total.norm + total.other_norm):
        return "related", f"the updates that both have are {'multiples' if multiples else 'equal'}; but {apart}"
    word, why = _by_cosine(total, shared)
    counted_words = [f"{counts[word]} {word}" for word in ("equal", "scaled", "related", "unrelated") if counts[word]]
    reasons = [why, f"modules: {', '.join(counted_words)}", apart]
    if counts["unknown"]:
        reasons.append(f"{counted(counts['unknown'], 'module')} could not be compared: {_reasons(one.modules)}")
    return word, "; ".join(filter(None, reasons))


def _by_cosine(total: Distance, shared: int) -> tuple[Relation, str]:
    """The word and the reason where updates differ; ``shared`` modules are equal or multiples."""
    if total.cosine is None:
        return "unrelated", "neither has an update" if not total.norm + total.other_norm else "the one update is zero"
    cosine = shown_cosine(total.cosine)
    if abs(total.cosine) >= KINSHIP:
        return "related", f"{'opposite: ' * (total.cosine < 0)}the updates have a cosine of {cosine}"
    if shared:
        told = f"{counted(shared, 'module')} {'has' if shared == 1 else 'have'} the same update, or a multiple of it"
        return "related", f"{told}, though all updates together have a cosine of {cosine}"
    return "unrelated", f"the updates have a cosine of {cosine} (related: from {KINSHIP} on)"


def _is_shared(module: ModuleComparison) -> bool:
    """Whether the updates are equal or multiples, and not of zeros: no two trainings come upon that by chance."""
    return module.word in {"equal", "scaled"} and module.update is not None and module.update.norm > 0


def _apart(one: Comparison) -> str:
    """What the adapters have beside the updates of common modules that is not the same, in words."""
    said = []
    for side, modules in (("A", one.only_a), ("B", one.only_b)):
        if trained := sum(only.norm is None or only.norm > 0 for only in modules):
            said.append(f"{counted(trained, 'module')} with an update {'is' if trained == 1 else 'are'} only in {side}")
    if others := sum(not tensor.equal for tensor in one.tensors):
        said.append(f"{counted(others, 'tensor')} beside the factors differ{'s' * (others == 1)}")
    return ", and ".join(said)


def _why_equal(one: Comparison) -> str:
    distances = [module.update for module in one.modules if module.update is not None]
    if all(distance.identical for distance in distances):
        return "every factor has the same bits, and every scale is the same"
    most = max((distance.difference or 0.0 for distance in distances), default=0.0)
    dtypes = dict.fromkeys(dtype for module in one.modules for side in (module.a, module.b) for dtype in side.dtypes)
    named = " and ".join(DTYPES.get(dtype, dtype) for dtype in dtypes)
    return f"no update differs by more than the rounding of {named} explains (at most {most:.2g} of its norm)"


def _why_scaled(one: Comparison, total: Distance) -> str:
    if total.word in {"scaled", "equal"}:
        return f"every update of B is {total.factor:.4g} times that of A"
    factors = [module.update.factor for module in one.modules if module.update is not None and module.update.norm]
    return f"each update of B is a multiple of A's: {min(factors):.4g} to {max(factors):.4g} times, module by module"


def _besides(word: str, fields: Sequence[FieldChange]) -> str:
    """What the configs say that makes equal factors mean something else."""
    names = [change.field for change in fields if change.effect in {"meaning", "base", "modules"}]
    if word not in {"equal", "scaled"} or not names:
        return ""
    return f"; the configs differ all the same, in {', '.join(names)}"


def _reasons(modules: Sequence[ModuleComparison]) -> str:
    said = Counter(
        module.reason or "its values are not finite" for module in modules if module.word == "unknown"
    ).most_common(3)
    return "; ".join(f"{reason} ({counted(number, 'module')})" if len(said) > 1 else reason for reason, number in said)


def shown_cosine(cosine: float) -> str:
    """Four decimals, and no negative zero."""
    return f"{round(cosine, 4) + 0.0:.4f}"
