"""LC5xx: the values of the tensors."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lora_cli.adapter.adapter import LoraPair
from lora_cli.checks.case import Case
from lora_cli.checks.check import WRONG, NotChecked, Problems, check
from lora_cli.finding import NO_BASE, Problem, Severity
from lora_cli.text import counted, cut, names

if TYPE_CHECKING:
    from lora_cli.adapter.values import TensorStats

LARGEST: Mapping[str, float] = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38}
"""The largest finite value of each dtype that a model is served in."""

HUGE = 10.0
"""Root mean square from which an update dominates the base, whose weights have 0.01 to 0.05."""

NEGLIGIBLE = 1e-5
"""Root mean square below which an update has no effect: of 26 published sets of adapters the weakest has 5.7e-5."""

OUTLIER = 1000.0
"""The multiple of the median of all modules from which an update is an outlier."""

FEWEST = 8
"""The number of modules from which a median is used."""


@check("LC501", "nonfinite-values", "weights", "values", peft=WRONG,
       hint="the training diverged: use an earlier checkpoint")  # fmt: skip
def nonfinite_values(case: Case) -> Problems:
    """A tensor contains NaN or infinity.

    Every engine loads it silently. One NaN makes all logits of a request NaN, and may reach others in its batch.
    """
    bad = [name for name, values in case.evidence.stats.items() if values.largest == math.inf]
    if bad:
        message = f"{counted(len(bad), 'tensor contains', 'tensors contain')} NaN or infinity: {names(bad)}"
        yield Problem(message, case.in_weights(bad[0]))


@check("LC502", "zero-update", "weights", "values", peft=WRONG,
       hint="it seems untrained: save it after training; with ZeRO-3 and FSDP gather the parameters first")  # fmt: skip
def zero_update(case: Case) -> Problems:
    """A or B is zero in every module, so that the adapter changes nothing; or a saved weight is all zeros.

    LoRA starts with B at zero: an adapter that was saved before training serves as the base model. A whole matrix, or
    DoRA's magnitude, of zeros replaces the base's own: the module no longer works.
    """
    stats, pairs, tensors = case.evidence.stats, case.adapter.pairs.values(), case.adapter.tensors
    scanned = [[one.name for one in pair.factors if one.nbytes and one.name in stats] for pair in pairs]
    zeros = [
        next((name for name in reversed(factors) if stats[name].largest == 0), "") for factors in scanned if factors
    ]
    if zeros and all(zeros) and not _has_other_tensors(case):
        yield Problem("A or B is zero in every module: the adapter changes nothing", case.in_weights(zeros[0]))
    emptied = [
        name
        for name, key in case.adapter.keys.items()
        if name in stats and stats[name].largest == 0 and tensors[name].nbytes
        if key.part == "magnitude" or (key.part in {"saved", "base_layer"} and len(tensors[name].shape) == 2)
    ]
    if emptied:
        message = f"{counted(len(emptied), 'tensor')} of zeros would replace the base's: {names(emptied)}"
        yield Problem(message, case.in_weights(emptied[0]))


def _has_other_tensors(case: Case) -> bool:
    """Whether tensors other than factors may change the model."""
    factors = {factor.name for pair in case.adapter.pairs.values() for factor in pair.factors}
    return any(key.part != "unknown" for name, key in case.adapter.keys.items() if name not in factors)


def _measured(case: Case) -> Iterator[tuple[LoraPair, float, "TensorStats | None", "TensorStats | None"]]:
    """Each pair with its scaling (1 if that is not known), and what was measured of A and B, if anything."""
    for pair in case.adapter.pairs.values():
        scale = case.application.scales.get(pair.module)
        found = (case.evidence.stats.get(one.name) if one is not None else None for one in (pair.a, pair.b))
        first, second = (None if one is None or math.isnan(one.norm) else one for one in found)
        yield pair, 1.0 if scale is None else abs(scale.scaling), first, second


@check("LC503", "overflow", "config", "weights", "values", peft=WRONG,
       hint="serve it in bfloat16, or use an earlier checkpoint")  # fmt: skip
def overflow(case: Case) -> Problems:
    """A factor, or B times the scaling, exceeds the range of the dtype in which the base is served.

    Engines cast A and B to the base's dtype, and multiply the scaling into B first. In float16 everything beyond 65504
    becomes infinity, and the request's logits NaN.
    """
    largest = dict[str, float]()
    for pair, scaling, first, second in _measured(case):
        for factor, stats, by in ((pair.a, first, 1.0), (pair.b, second, max(1.0, scaling))):
            if factor is not None and stats is not None:
                largest[factor.name] = stats.largest * by
    dtype = case.base.dtype if case.base is not None else ""
    most = LARGEST.get(dtype, LARGEST["float16"])
    beyond = [name for name, value in largest.items() if value > most]
    if beyond and dtype in LARGEST:
        has = f"{counted(len(beyond), 'tensor has', 'tensors have')} values up to {largest[beyond[0]]:.3g}"
        message = f"{has} once scaled, but the maximum of {dtype} is {most:.5g}: {names(beyond)}"
        yield Problem(message, case.in_weights(beyond[0]))
    elif beyond:
        why = NO_BASE if case.base is None else "the base's config has no known dtype"
        yield NotChecked(f"{cut(beyond[0])} exceeds float16, and the dtype used for serving is unknown: {why}")


def _updates(case: Case) -> dict[str, float]:
    """An upper bound of the root mean square of each module's update, if its scale is known and both were measured."""
    found = dict[str, float]()
    for pair, scaling, first, second in _measured(case):
        d_in, d_out = pair.widths
        if pair.module in case.application.scales and d_in and d_out and first is not None and second is not None:
            found[pair.module] = scaling / math.sqrt(d_in * d_out) * first.norm * second.norm
    return found


@check("LC504", "huge-update", "config", "weights", "values",
       hint="check lora_alpha, use_rslora and how it was trained; use an earlier checkpoint")  # fmt: skip
def huge_update(case: Case) -> Problems:
    """The update ``s * B @ A`` of a module may be larger than any base's weights, or far larger than all others.

    The training diverged, or the scaling is not the one it was trained with: the output is noise. The bound
    ``|s| * norm(B) * norm(A)``, spread over the elements of the update, is compared with 10 (a base's weights have a
    root mean square of 0.01 to 0.05), and with the median of the modules.
    """
    updates = _updates(case)
    usual = sorted(updates.values())[len(updates) // 2] if len(updates) >= FEWEST else 0.0
    huge = {module: size for module, size in updates.items() if size > HUGE or (usual and size > OUTLIER * usual)}
    if huge:
        worst_first = sorted(huge, key=lambda module: -huge[module])
        beside = f", {huge[worst_first[0]] / usual:.3g} times the median" if usual else ""
        has = f"may have a root mean square of {huge[worst_first[0]]:.3g}{beside}"
        message = f"the update of {counted(len(huge), 'module')} {has}: {names(worst_first)}"
        yield Problem(message, case.in_weights(worst_first[0]))


@check("LC505", "negligible-update", "config", "weights", "values", floor=Severity.ERROR,
       hint="check lora_alpha and the learning rate; save it after training")  # fmt: skip
def negligible_update(case: Case) -> Problems:
    """The update ``s * B @ A`` is too small in every module to change the output: untrained, or scaled to nothing."""
    updates, stats = _updates(case), case.evidence.stats
    narrow = [name for name, one in stats.items() if math.isnan(one.norm) and one.largest != math.inf]
    if narrow and not updates:
        yield NotChecked(f"the size of an update in {case.adapter.tensors[narrow[0]].dtype} is unknown")
    if updates and 0 < max(updates.values()) < NEGLIGIBLE and not _has_other_tensors(case):
        first = max(updates, key=lambda module: updates[module])
        size = f"the largest update has a root mean square of at most {updates[first]:.3g}"
        yield Problem(f"{size}, but trained adapters have more than 5e-05", case.in_weights(first))


@check("LC506", "untrained-part", "weights", "values", floor=Severity.NOTE,
       hint="remove them from target_modules, or train them")  # fmt: skip
def untrained_part(case: Case) -> Problems:
    """B is zero in some modules, and not in the others.

    Training did not reach these modules, as an encoder whose inputs have no gradient under gradient checkpointing
    (``enable_input_require_grads()``). Experts are ignored, because a router may never select one.
    """
    pairs, stats = case.adapter.pairs.items(), case.evidence.stats
    of_b = ((m, stats.get(pair.b.name)) for m, pair in pairs if pair.b is not None and ".experts." not in f".{m}.")
    zero = {module: found.largest == 0 for module, found in of_b if found is not None}
    untrained = [module for module, is_zero in zero.items() if is_zero]
    if untrained and len(untrained) < len(zero):
        message = f"B is zero in {len(untrained)} of {counted(len(zero), 'module')}: {names(untrained)}"
        yield Problem(message, case.in_weights(untrained[0]))
