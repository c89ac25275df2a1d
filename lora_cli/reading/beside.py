"""What two adapters have beside their factors (saved weights, magnitudes, biases), tensor by tensor, as streams."""

import math

import numpy as np

from lora_cli.core.adapter import Adapter
from lora_cli.core.comparison import ROUNDOFF, TensorComparison
from lora_cli.core.keys import PAIR_PARTS
from lora_cli.core.tensor_info import TensorInfo
from lora_cli.errors import FormatError
from lora_cli.reading.adapter import Opened
from lora_cli.reading.checkpoint import slices
from lora_cli.reading.tensor_values import decode

IN_FACTORS = PAIR_PARTS | {"diag"}


def named(adapter: Adapter) -> dict[tuple[str, str, str], TensorInfo]:
    """The tensors beside the factors by module, part and parameter, however their names are prefixed."""
    found: dict[tuple[str, str, str], TensorInfo] = {}
    for name, key in adapter.keys.items():
        if key.part not in IN_FACTORS:
            known = (
                (key.module, key.part, key.param) if key.part not in {"unknown", "variant"} else (name, key.part, "")
            )
            found.setdefault(known, adapter.tensors[name])
    return found


def compare_beside(a: Opened, b: Opened, *, values: bool) -> tuple[TensorComparison, ...]:
    """Each tensor beside the factors of either; without ``values`` those that are in one alone.

    Raises:
        LoraCliError: what the sources raise.
    """
    ours, theirs = named(a.adapter), named(b.adapter)
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
    if one.shape != other.shape:
        reason = f"it is {list(one.shape)} in A and {list(other.shape)} in B"
        return TensorComparison(one.name, part, "both", equal=False, difference=None, reason=reason)
    try:
        same, apart, size = _streamed(a, b, one, other)
    except FormatError as error:
        return TensorComparison(one.name, part, "both", equal=False, difference=None, reason=error.reason)
    if same:
        return TensorComparison(one.name, part, "both", equal=True, difference=0.0)
    if not math.isfinite(apart) or not math.isfinite(size):
        return TensorComparison(
            one.name, part, "both", equal=False, difference=None, reason="its values are not finite"
        )
    explained = math.hypot(ROUNDOFF.get(one.dtype, 0.0), ROUNDOFF.get(other.dtype, 0.0)) * size
    return TensorComparison(one.name, part, "both", equal=apart <= explained, difference=apart / size if size else None)


def _streamed(a: Opened, b: Opened, one: TensorInfo, other: TensorInfo) -> tuple[bool, float, float]:
    """Whether all bits are the same, the norm of the difference, and that of A's."""
    same, apart, size = one.dtype == other.dtype, 0.0, 0.0
    for first, second in zip(slices(a.source, a.revision, one), slices(b.source, b.revision, other), strict=True):
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
