"""Two adapters compared: always by configs and headers, by values where the bytes of both are on this disk."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.comparison import (
    ARITHMETIC,
    ROUNDOFF,
    SMALLEST,
    Comparison,
    Distance,
    ModuleComparison,
    ModuleNorm,
    OtherAdapter,
    Side,
    TensorComparison,
    combined,
    compare_module,
    update_distance,
    with_relation,
)
from lora_cli.core.factors import Factors, factors_of
from lora_cli.core.lora_config import config_changes
from lora_cli.core.safetensors import TensorInfo
from lora_cli.core.tensor_keys import PAIR_PARTS
from lora_cli.errors import FormatError
from lora_cli.reading.adapter import Opened
from lora_cli.reading.base_weights import read_elements
from lora_cli.reading.deltas import (
    AT_ONCE,
    OVERFLOW,
    LoadedFactors,
    Update,
    compare_updates,
    load_factors,
    norm,
    updates_of,
    why_not_finite,
)
from lora_cli.reading.tensor_values import decode

FACTOR_PARTS = PAIR_PARTS | {"diag"}


def compare(a: Opened, b: Opened, base: BaseModel | None, unread: str, hint: str = "") -> Comparison:
    """How ``b`` differs from ``a``.

    ``base`` shows which modules the factors of experts belong to. ``unread`` is the reason why no values are compared,
    "" to compare them.

    Raises:
        LoraCliError: what the sources raise.
    """
    ours, theirs = _factors(a.adapter, base), _factors(b.adapter, base)

    def in_both(module: str) -> ModuleComparison:
        one, other = ours[module], theirs[module]
        if isinstance(one, str) or isinstance(other, str):
            reasons = (f"{side}: {why}" for side, why in (("A", one), ("B", other)) if isinstance(why, str))
            found: Distance | str = "; ".join(reasons)
        else:
            found = unread or _module_distance(a, b, one, other)
        path = module if isinstance(one, str) else one.path
        return compare_module(module, path, _side(a.adapter, module, one), _side(b.adapter, module, other), found)

    def alone(opened: Opened, factors: Factors | str) -> float | None:
        return None if isinstance(factors, str) or unread else _module_norm(opened, factors)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        modules = tuple(pool.map(in_both, [module for module in a.adapter.pairs if module in theirs]))
        in_a = [module for module in a.adapter.pairs if module not in theirs]
        in_b = [module for module in b.adapter.pairs if module not in ours]
        only_a = tuple(pool.map(lambda module: ModuleNorm(module, alone(a, ours[module])), in_a))
        only_b = tuple(pool.map(lambda module: ModuleNorm(module, alone(b, theirs[module])), in_b))
    return with_relation(
        Comparison(
            with_=OtherAdapter(b.adapter.name, str(b.revision.ref), b.revision.id),
            word="unknown",
            reason="",
            distance=update_distance(None),
            fields=config_changes(a.adapter.config, b.adapter.config),
            only_a=only_a,
            only_b=only_b,
            modules=modules,
            tensors=_compare_other_tensors(a, b, values=not unread),
            unread=unread,
            hint=hint,
        )
    )


def _factors(adapter: Adapter, base: BaseModel | None) -> dict[str, Factors | str]:
    """Each module's factors, or the reason why they cannot be used."""
    factors, unreadable = factors_of(adapter, base)
    return {**{one.module: one for one in factors}, **{one.module: one.reason for one in unreadable}}


def _side(adapter: Adapter, module: str, factors: Factors | str) -> Side:
    pair = adapter.pairs[module]
    return Side(
        r=pair.rank if isinstance(factors, str) else factors.r,
        scaling=None if isinstance(factors, str) else factors.scaling,
        lora_A=pair.a.shape if pair.a is not None else None,
        lora_B=pair.b.shape if pair.b is not None else None,
        dtypes=tuple(dict.fromkeys(one.dtype for one in pair.factors)),
    )


def _module_distance(a: Opened, b: Opened, one: Factors, other: Factors) -> Distance | str:
    """How the update ``other`` of a module of ``b`` differs from ``one`` of ``a``; or the reason why it is unknown.

    Raises:
        LoraCliError: what the sources raise.
    """
    if (one.experts, one.d_out, one.d_in) != (other.experts, other.d_out, other.d_in):
        return f"it is {_shape(one)} in A and {_shape(other)} in B"
    try:
        first, second = load_factors(a, one), load_factors(b, other)
        if _same_bits(one, first, other, second):
            return _scaled_distance(one, first, other.scaling)
        found = [
            _distance(one, other, *pair) for pair in zip(updates_of(one, first), updates_of(other, second), strict=True)
        ]
        if all(math.isfinite(part.distance) for part in found):
            return combined(found)
        sides = {"A": why_not_finite(one, first), "B": why_not_finite(other, second)}
        return "; ".join(f"{side}: {why}" for side, why in sides.items() if why != OVERFLOW) or OVERFLOW
    except FormatError as error:
        return error.reason


def _distance(one: Factors, other: Factors, x: Update, y: Update) -> Distance:
    found, spread, other_spread = compare_updates(x, y)
    return replace(found, rounding=_rounding(one, x, spread), other_rounding=_rounding(other, y, other_spread))


def _module_norm(a: Opened, one: Factors) -> float | None:
    """The norm of an update; None if it is unknown. Raises as ``_module_distance``."""
    try:
        found = math.hypot(*(norm(update) for update in updates_of(one, load_factors(a, one))))
    except FormatError:
        return None
    return found if math.isfinite(found) else None


def _shape(one: Factors) -> str:
    return f"{f'{one.experts} x ' if one.experts > 1 else ''}[{one.d_out}, {one.d_in}]"


def _same_bits(one: Factors, first: LoadedFactors, other: Factors, second: LoadedFactors) -> bool:
    if (one.a.dtype, one.b.dtype, one.a_blocks, one.b_blocks) != (
        other.a.dtype, other.b.dtype, other.a_blocks, other.b_blocks,
    ) or (one.diagonal is None) != (other.diagonal is None):  # fmt: skip
        return False
    parts = ((first.a, second.a), (first.b, second.b), (first.diagonal, second.diagonal))
    return all(x is None or y is None or np.array_equal(x, y) for x, y in parts)


def _scaled_distance(one: Factors, loaded: LoadedFactors, other_scaling: float) -> Distance | str:
    """The distance of the same factors with two scalings; with equal ones it is 0, even if values are not finite."""
    size = math.hypot(*(norm(Update(update.a, update.b, 1.0)) for update in updates_of(one, loaded)))
    if not math.isfinite(size) and one.scaling != other_scaling:
        return why_not_finite(one, loaded)
    first, second = (scaling * size for scaling in (one.scaling, other_scaling))
    apart = abs(second - first) if one.scaling != other_scaling else 0.0
    factor = other_scaling / one.scaling if one.scaling else 0.0
    inner = first * second if math.isfinite(size) else math.nan
    residual = 0.0 if one.scaling else abs(second)
    return Distance(abs(first), abs(second), inner, factor, apart, residual, 0.0, 0.0, identical=True)


def _rounding(factors: Factors, update: Update, spread: float) -> float:
    """The norm by which rounding the factors to their dtypes may change the update (see ``core.comparison``)."""
    total = spread * math.hypot(*(ROUNDOFF.get(tensor.dtype, 0.0) for tensor in (factors.a, factors.b)), ARITHMETIC)
    for tensor, dimension, beside in ((factors.a, factors.d_in, update.b), (factors.b, factors.d_out, update.a)):
        if least := SMALLEST.get(tensor.dtype):
            size = abs(update.scaling) * float(np.linalg.norm(beside))
            total = math.hypot(total, least * math.sqrt(dimension) * size)
    return total


def _other_tensors(adapter: Adapter) -> dict[tuple[str, str, str], TensorInfo]:
    """The tensors other than factors by module, part and parameter, without the prefix of their names."""
    found: dict[tuple[str, str, str], TensorInfo] = {}
    for name, key in adapter.keys.items():
        if key.part not in FACTOR_PARTS:
            known = (
                (key.module, key.part, key.param) if key.part not in {"unknown", "variant"} else (name, key.part, "")
            )
            found.setdefault(known, adapter.tensors[name])
    return found


def _compare_other_tensors(a: Opened, b: Opened, *, values: bool) -> tuple[TensorComparison, ...]:
    """Comparisons of the tensors other than factors; without ``values``, only of those in one of the adapters.

    Raises:
        LoraCliError: what the sources raise.
    """
    ours, theirs = _other_tensors(a.adapter), _other_tensors(b.adapter)
    made = []
    for key in dict.fromkeys((*ours, *theirs)):
        one, other = ours.get(key), theirs.get(key)
        if one is not None and other is not None:
            made += [_compared(a, b, one, other, key[1])] if values else []
        elif one is not None:
            made.append(TensorComparison(one.name, key[1], "a", equal=False, difference=None))
        elif other is not None:
            made.append(TensorComparison(other.name, key[1], "b", equal=False, difference=None))
    return tuple(made)


def _compared(a: Opened, b: Opened, one: TensorInfo, other: TensorInfo, part: str) -> TensorComparison:
    def unknown(reason: str) -> TensorComparison:
        return TensorComparison(one.name, part, "both", equal=False, difference=None, reason=reason)

    if one.shape != other.shape:
        return unknown(f"it is {list(one.shape)} in A and {list(other.shape)} in B")
    try:
        same, apart, size = _difference(a, b, one, other)
    except FormatError as error:
        return unknown(error.reason)
    if same:
        return TensorComparison(one.name, part, "both", equal=True, difference=0.0)
    if not math.isfinite(apart) or not math.isfinite(size):
        return unknown("its values are not finite")
    explained = math.hypot(ROUNDOFF.get(one.dtype, 0.0), ROUNDOFF.get(other.dtype, 0.0)) * size
    return TensorComparison(one.name, part, "both", equal=apart <= explained, difference=apart / size if size else None)


def _difference(a: Opened, b: Opened, one: TensorInfo, other: TensorInfo) -> tuple[bool, float, float]:
    """Whether all bits are equal, the norm of the difference, and the norm of A's tensor."""
    same, apart, size = one.dtype == other.dtype, 0.0, 0.0
    for first, second in zip(
        read_elements(a.source, a.revision, one), read_elements(b.source, b.revision, other), strict=True
    ):
        if same and np.array_equal(first, second):
            if one.dtype in ROUNDOFF:
                size += float(np.linalg.norm(decode(first, one.dtype).astype("f8"))) ** 2
            continue
        same = False
        with np.errstate(all="ignore"):
            x, y = decode(first, one.dtype).astype("f8"), decode(second, other.dtype).astype("f8")
            apart += float(np.linalg.norm(y - x)) ** 2
            size += float(np.linalg.norm(x)) ** 2
    return same, math.sqrt(apart) if apart >= 0 else math.nan, math.sqrt(size) if size >= 0 else math.nan
