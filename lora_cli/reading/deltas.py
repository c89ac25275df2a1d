"""What a module's update ``s · B @ A`` is, in numbers, without ever making it: ``[d_out, d_in]`` stays two factors.

With ``B = Q_B M_B`` and ``Aᵀ = Q_A M_A``, Q with orthonormal columns, it is ``Q_B (s M_B M_Aᵀ) Q_Aᵀ``: its singular
values, and so its norm, are those of the small matrix in the middle, ``[r, r]``. M comes from the Gram matrix of the
columns in float64, by its eigenvectors, so that factors of any rank need no other way; and where that is badly
conditioned once more from that of the columns which the first pass has made orthonormal, as in CholeskyQR2 (Yamamoto,
Nakatsukasa, Yanagisawa and Fukaya, ETNA 44, 2015). What is wrong in M is at most some 1e-12 of its largest singular
value. Two updates are compared in one basis of both.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lora_cli.core.base_model import BaseModel
from lora_cli.core.comparison import Distance
from lora_cli.core.factors import Factors, Unreadable, factors_of
from lora_cli.core.safetensors import TensorInfo
from lora_cli.core.spectrum import ModuleSpectrum, Spectrum, left_out, module_spectrum, spectrum_of
from lora_cli.core.text import counted
from lora_cli.errors import FormatError
from lora_cli.reading.adapter import Opened
from lora_cli.reading.base_weights import BaseNorms
from lora_cli.reading.tensor_values import Bits, Floats, decode, load

SOUND = 1e-8
"""An eigenvalue of the columns' Gram matrix (their lengths being 1) from which one pass is exact to some 1e-12."""

AT_ONCE = min(os.cpu_count() or 1, 4)
"""Modules that are read and computed at once: their factors are in memory."""

OVERFLOW = "its values overflow"
"""Why an update is not finite whose factors are."""


@dataclass(frozen=True, slots=True)
class Update:
    """``scaling · b @ a``: ``a`` is ``[r, d_in]``, ``b`` is ``[d_out, r]``, both float32 or float64."""

    a: Floats
    b: Floats
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """``[d_out, d_in]``."""
        return self.b.shape[0], self.a.shape[1]


def core(update: Update) -> Floats:
    """A matrix ``[r, r]`` in float64 whose singular values are those of the update that may be above zero.

    It is not finite where a factor is not.
    """
    with np.errstate(all="ignore"):
        middle: Floats = update.scaling * (_root(update.b.T) @ _root(update.a).T)
    return middle


def _root(x: Floats) -> Floats:
    """M ``[r, r]`` of ``xᵀ = Q M`` for ``x`` ``[r, n]``, in whichever order its elements are; ``[n, r]`` if n < r."""
    r, n = x.shape
    rows = x.astype("f8")
    if n <= r:
        return rows.T
    with np.errstate(all="ignore"):
        peak = float(np.abs(x).max(initial=0.0)) or 1.0 if x.dtype == np.float64 else 1.0
        if peak != 1.0:  # the squares of what is stored as float64 may leave its range
            rows /= peak
        gram = rows @ rows.T
        if not np.isfinite(gram).all():
            return np.full((r, r), np.nan)
        sizes = np.sqrt(np.diag(gram))
        inverse = np.divide(1.0, sizes, out=np.zeros(r), where=sizes > 0)
        gram *= np.outer(inverse, inverse)
        gram[sizes == 0, sizes == 0] = 1.0  # what is zero, as padding is, makes nothing worse
        root, whiten, least = _halves(gram)
        if least < SOUND:
            again = (whiten * inverse) @ rows
            root = _halves(again @ again.T)[0] @ root
        return np.asarray(root * (sizes * peak), "f8")


def _halves(gram: Floats) -> tuple[Floats, Floats, float]:
    """H with ``Hᵀ H = gram``, what turns those columns into orthonormal ones, and the least eigenvalue.

    What is below the rounding of the largest eigenvalue is noise: it is kept, and not blown up.
    """
    values, vectors = np.linalg.eigh(gram)
    roots = np.sqrt(np.maximum(values, np.finfo("f8").eps * max(values[-1], np.finfo("f8").tiny)))
    return vectors.T * roots[:, None], vectors.T / roots[:, None], float(values[0])


def singular_values(update: Update) -> Floats:
    """The singular values of the update that may be above zero, the largest first: ``r``, or fewer dimensions.

    They are NaN where a factor holds what is not finite.
    """
    middle = core(update)
    if not np.isfinite(middle).all():
        return np.full(1, np.nan)
    values: Floats = np.linalg.svd(middle, compute_uv=False)
    return values[: max(1, min(update.shape))]


def norm(update: Update) -> float:
    """The Frobenius norm of the update."""
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(core(update)))


def distance(one: Update, other: Update) -> float:
    """The Frobenius norm of ``one - other``, by that of their difference's own factors: nothing cancels."""
    b = np.concatenate((one.b.astype("f8") * one.scaling, other.b.astype("f8") * -other.scaling), axis=1)
    return norm(Update(np.concatenate((one.a, other.a), axis=0, dtype="f8"), b, 1.0))


def relation(one: Update, other: Update) -> tuple[Distance, float, float]:
    """How ``other`` compares with ``one``, which has its shape and perhaps another rank. Nothing cancels, however near.

    Beside the distance, of which no rounding is known here, are the spreads of both: the roots of
    ``Σ_j s² ‖b_j‖² ‖a_j‖²`` over the ranks, what the norm would be if the ranks were orthogonal, and what rounding
    errors are in proportion to. All is NaN where a factor holds what is not finite.
    """
    r = one.a.shape[0]
    root_a, root_b = _root(_together(one.a, other.a)), _root(_together(one.b.T, other.b.T))
    with np.errstate(all="ignore"):
        first = one.scaling * (root_b[:, :r] @ root_a[:, :r].T)
        second = other.scaling * (root_b[:, r:] @ root_a[:, r:].T)
        size, other_size = float(np.linalg.norm(first)), float(np.linalg.norm(second))
        inner = float((first * second).sum())
        factor = inner / size**2 if size else 0.0
        spreads = np.linalg.norm(root_a, axis=0) * np.linalg.norm(root_b, axis=0)
        apart, residual = float(np.linalg.norm(second - first)), float(np.linalg.norm(second - factor * first))
        spread = float(abs(one.scaling) * np.linalg.norm(spreads[:r]))
        other_spread = float(abs(other.scaling) * np.linalg.norm(spreads[r:]))
    return Distance(size, other_size, inner, factor, apart, residual, 0.0, 0.0), spread, other_spread


def _together(one: Floats, other: Floats) -> Floats:
    """Both below each other, in the order in which the elements of the first are."""
    if one.flags.c_contiguous:
        return np.concatenate((one, other), axis=0)
    return np.concatenate((one.T, other.T), axis=1).T


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """The factors' elements as they are stored, and KaSA's diagonal where there is one."""

    a: Bits
    b: Bits
    diagonal: Bits | None = None


def load_factors(one: Opened, factors: Factors) -> Loaded:
    """The tensors of ``factors``, in memory.

    Raises:
        FormatError: their elements do not fill whole bytes.
        Corrupt: the file ends before the header says.
        LoraCliError: what the source raises.
    """
    parts = (factors.a, factors.b, *(() if factors.diagonal is None else (factors.diagonal,)))
    return Loaded(*(load(one.source, one.revision, tensor) for tensor in parts))


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
    return f"{' and '.join(bad)} contain{'s' * (len(bad) == 1)} NaN or infinity" if bad else OVERFLOW


def in_blocks(x: Floats, blocks: int) -> Floats:
    """BD-LoRA's factor as the whole matrix: the blocks that are below each other in ``x`` on a diagonal."""
    if blocks == 1:
        return x
    rows, columns = len(x) // blocks, x.shape[1]
    whole = np.zeros((len(x), columns * blocks), x.dtype)
    for i in range(blocks):
        whole[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = x[i * rows : (i + 1) * rows]
    return whole


def read_spectrum(one: Opened, base: BaseModel | None = None, norms: BaseNorms | None = None) -> Spectrum:
    """The spectrum of an adapter. With ``norms`` each module's base weight is read too, as a stream.

    Raises:
        LoraCliError: what the sources raise.
    """
    factors, unreadable = factors_of(one.adapter, base)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda module: _of_one(one, module, norms), factors))
    without = {
        told.module: told for told in (*unreadable, *(told for told, _ in found if isinstance(told, Unreadable)))
    }
    reasons = Counter(reason for _, reason in found if reason)
    return spectrum_of(
        [told for told, _ in found if isinstance(told, ModuleSpectrum)],
        [without[module] for module in one.adapter.pairs if module in without],
        left_out(one.adapter),
        "; ".join(f"{reason} ({counted(count, 'module')})" for reason, count in reasons.items()),
    )


def _of_one(one: Opened, factors: Factors, norms: BaseNorms | None) -> tuple[ModuleSpectrum | Unreadable, str]:
    try:
        loaded = load_factors(one, factors)
        values = [tuple(map(float, singular_values(update))) for update in updates_of(factors, loaded)]
    except FormatError as error:
        return Unreadable(factors.module, error.reason), ""
    if not all(math.isfinite(math.hypot(*found)) for found in values):
        return Unreadable(factors.module, not_finite(factors, loaded)), ""
    base_norm, reason = norms.of(factors) if norms is not None else (None, "")
    return module_spectrum(factors, values, base_norm), reason
