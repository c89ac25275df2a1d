"""The factors of a module as numbers: one ``Update``, or one for each of its experts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lora_cli.core.factors import Factors
from lora_cli.core.snapshot import Revision
from lora_cli.core.tensor_info import TensorInfo
from lora_cli.errors import Corrupt
from lora_cli.reading.tensor_values import Bits, Floats, decode, load
from lora_cli.reading.updates import Update
from lora_cli.sources import Source

OVERFLOW = "its values overflow"
"""Why an update is not finite whose factors are."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """The factors' elements as they are stored, and KaSA's diagonal where there is one."""

    a: Bits
    b: Bits
    diagonal: Bits | None = None


def load_factors(source: Source, revision: Revision, factors: Factors) -> Loaded:
    """The tensors of ``factors``, in memory.

    Raises:
        FormatError: their elements do not fill whole bytes.
        Corrupt: the file ends before the header says.
        LoraCliError: what the source raises.
    """
    a, b = (load_tensor(source, revision, tensor) for tensor in (factors.a, factors.b))
    return Loaded(a, b, None if factors.diagonal is None else load_tensor(source, revision, factors.diagonal))


def load_tensor(source: Source, revision: Revision, tensor: TensorInfo) -> Bits:
    """The tensor's elements as they are stored. Raises as ``load_factors``."""
    file = revision.file(tensor.file)
    if file is None:
        raise Corrupt(f"{tensor.file} is gone: it was there a moment ago", hint="try again")
    return load(source, revision, file, tensor)


def updates_of(factors: Factors, loaded: Loaded) -> Iterator[Update]:
    """What ``factors`` stand for: an update, or of fused experts that of each, in their order.

    Raises:
        FormatError: they are no floats.
    """
    if factors.experts > 1:
        yield from _of_experts(factors, loaded)
        return
    a, b = _decode(loaded.a, factors.a), _decode(loaded.b, factors.b)
    a, b = a.reshape(len(a), -1), b.reshape(b.shape[:2])
    if factors.diagonal is not None and loaded.diagonal is not None:
        with np.errstate(all="ignore"):
            a = _decode(loaded.diagonal, factors.diagonal).reshape(-1, 1) * a
    yield Update(in_blocks(a, factors.a_blocks), in_blocks(b, factors.b_blocks), factors.scaling)


def _of_experts(factors: Factors, loaded: Loaded) -> Iterator[Update]:
    """One expert after the other: of all of them only the bits are in memory."""
    rows = loaded.a.reshape(factors.experts, factors.r, -1)
    columns = loaded.b.reshape(factors.d_out, factors.r, factors.experts)
    columns = np.ascontiguousarray(columns.transpose(2, 0, 1))
    for expert in range(factors.experts):
        a, b = _decode(rows[expert], factors.a), _decode(columns[expert], factors.b)
        yield Update(a, b, factors.scaling)


def _decode(bits: Bits, tensor: TensorInfo) -> Floats:
    with np.errstate(all="ignore"):  # which a NaN's conversion may speak of
        return decode(bits, tensor.dtype)


def not_finite(factors: Factors, loaded: Loaded) -> str:
    """Why the update of ``factors`` is not finite, in words."""
    told = (
        ("lora_A", loaded.a, factors.a),
        ("lora_B", loaded.b, factors.b),
        ("lora_diag", loaded.diagonal, factors.diagonal),
    )
    bad = [
        name
        for name, bits, tensor in told
        if bits is not None and tensor is not None and not np.isfinite(_decode(bits, tensor)).all()
    ]
    return f"{' and '.join(bad)} hold{'s' * (len(bad) == 1)} NaN or infinity" if bad else OVERFLOW


def in_blocks(x: Floats, blocks: int) -> Floats:
    """BD-LoRA's factor as the whole matrix: the blocks that stand below each other in ``x`` on a diagonal."""
    if blocks == 1:
        return x
    rows, columns = len(x) // blocks, x.shape[1]
    whole = np.zeros((len(x), columns * blocks), x.dtype)
    for i in range(blocks):
        whole[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = x[i * rows : (i + 1) * rows]
    return whole
