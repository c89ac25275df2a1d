"""Norms, singular values and distances of updates ``s · B @ A``, without computing the ``[d_out, d_in]`` product.

With ``B = Q_B M_B`` and ``Aᵀ = Q_A M_A``, Q with orthonormal columns, the update is ``Q_B (s M_B M_Aᵀ) Q_Aᵀ``: its
singular values, and so its norm, are those of the small matrix in the middle, ``[r, r]``. M is computed from the Gram
matrix of the columns in float64, by its eigenvectors, which works for factors of any rank. Where it is badly
conditioned, a second pass uses the columns that the first has made orthonormal, as in CholeskyQR2 (Yamamoto,
Nakatsukasa, Yanagisawa and Fukaya, ETNA 44, 2015). The error of M is at most about 1e-12 of its largest singular value.
Two updates are compared in a common basis.
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
"""The least eigenvalue of the Gram matrix of normalised columns for which one pass is exact to about 1e-12."""

AT_ONCE = min(os.cpu_count() or 1, 4)
"""Modules that are processed at once: their factors are in memory."""

OVERFLOW = "its values overflow"
"""The reason why an update of finite factors is not finite."""


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


def _core(update: Update) -> Floats:
    """A matrix ``[r, r]`` in float64 with the nonzero singular values of the update; not finite if a factor is not."""
    with np.errstate(all="ignore"):
        middle: Floats = update.scaling * (_root(update.b.T) @ _root(update.a).T)
    return middle


def _root(x: Floats) -> Floats:
    """M ``[r, r]`` of ``xᵀ = Q M`` for ``x`` ``[r, n]`` in any memory order; ``[n, r]`` if n < r."""
    r, n = x.shape
    rows = x.astype("f8")
    if n <= r:
        return rows.T
    with np.errstate(all="ignore"):
        peak = float(np.abs(x).max(initial=0.0)) or 1.0 if x.dtype == np.float64 else 1.0
        if peak != 1.0:  # squares of float64 values may overflow
            rows /= peak
        gram = rows @ rows.T
        if not np.isfinite(gram).all():
            return np.full((r, r), np.nan)
        sizes = np.sqrt(np.diag(gram))
        inverse = np.divide(1.0, sizes, out=np.zeros(r), where=sizes > 0)
        gram *= np.outer(inverse, inverse)
        gram[sizes == 0, sizes == 0] = 1.0  # zero columns, as of padding, must not affect the condition
        root, whiten, least = _halves(gram)
        if least < SOUND:
            again = (whiten * inverse) @ rows
            root = _halves(again @ again.T)[0] @ root
        return np.asarray(root * (sizes * peak), "f8")


def _halves(gram: Floats) -> tuple[Floats, Floats, float]:
    """H with ``Hᵀ H = gram``, the matrix that makes the columns orthonormal, and the least eigenvalue.

    Eigenvalues below the rounding error of the largest are noise: they are raised to it, so that it is not amplified.
    """
    values, vectors = np.linalg.eigh(gram)
    roots = np.sqrt(np.maximum(values, np.finfo("f8").eps * max(values[-1], np.finfo("f8").tiny)))
    return vectors.T * roots[:, None], vectors.T / roots[:, None], float(values[0])


def singular_values(update: Update) -> Floats:
    """The nonzero singular values of the update, largest first, at most ``r``; NaN if a factor is not finite."""
    middle = _core(update)
    if not np.isfinite(middle).all():
        return np.full(1, np.nan)
    values: Floats = np.linalg.svd(middle, compute_uv=False)
    return values[: max(1, min(update.shape))]


def norm(update: Update) -> float:
    """The Frobenius norm of the update."""
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(_core(update)))


def distance(one: Update, other: Update) -> float:
    """The Frobenius norm of ``one - other``, from the factors of the difference: without cancellation."""
    b = np.concatenate((one.b.astype("f8") * one.scaling, other.b.astype("f8") * -other.scaling), axis=1)
    return norm(Update(np.concatenate((one.a, other.a), axis=0, dtype="f8"), b, 1.0))


def compare_updates(one: Update, other: Update) -> tuple[Distance, float, float]:
    """The distance of ``other`` from ``one`` of the same shape, perhaps of another rank, without cancellation.

    Its rounding errors are not filled in. The other two values are the spreads of both updates: the roots of
    ``Σ_j s² ‖b_j‖² ‖a_j‖²`` over the ranks, which are the norms for orthogonal ranks, and to which rounding errors are
    proportional. All values are NaN if a factor is not finite.
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
    """Both matrices concatenated by rows, in the memory order of the first."""
    if one.flags.c_contiguous:
        return np.concatenate((one, other), axis=0)
    return np.concatenate((one.T, other.T), axis=1).T


@dataclass(frozen=True, slots=True, eq=False)
class LoadedFactors:
    """The elements of the factors as they are stored, and KaSA's diagonal if there is one."""

    a: Bits
    b: Bits
    diagonal: Bits | None = None


def load_factors(one: Opened, factors: Factors) -> LoadedFactors:
    """The tensors of ``factors``, in memory.

    Raises:
        FormatError: their elements do not fill whole bytes.
        Corrupt: the file ends before the header says.
        LoraCliError: what the source raises.
    """
    parts = (factors.a, factors.b, *(() if factors.diagonal is None else (factors.diagonal,)))
    return LoadedFactors(*(load(one.source, one.revision, tensor) for tensor in parts))


def updates_of(factors: Factors, loaded: LoadedFactors) -> Iterator[Update]:
    """The update of ``factors``, or those of fused experts in their order.

    Raises:
        FormatError: they are no floats.
    """
    if factors.experts > 1:
        yield from _expert_updates(factors, loaded)
        return
    a, b = _decode(loaded.a, factors.a), _decode(loaded.b, factors.b)
    a, b = a.reshape(len(a), -1), b.reshape(b.shape[:2])
    if factors.diagonal is not None and loaded.diagonal is not None:
        with np.errstate(all="ignore"):
            a = _decode(loaded.diagonal, factors.diagonal).reshape(-1, 1) * a
    yield Update(_block_diagonal(a, factors.a_blocks), _block_diagonal(b, factors.b_blocks), factors.scaling)


def _expert_updates(factors: Factors, loaded: LoadedFactors) -> Iterator[Update]:
    """The updates one expert at a time: only the bits of all are in memory."""
    rows = loaded.a.reshape(factors.experts, factors.r, -1)
    columns = loaded.b.reshape(factors.d_out, factors.r, factors.experts)
    columns = np.ascontiguousarray(columns.transpose(2, 0, 1))
    for expert in range(factors.experts):
        a, b = _decode(rows[expert], factors.a), _decode(columns[expert], factors.b)
        yield Update(a, b, factors.scaling)


def _decode(bits: Bits, tensor: TensorInfo) -> Floats:
    with np.errstate(all="ignore"):  # converting NaN may warn
        return decode(bits, tensor.dtype)


def why_not_finite(factors: Factors, loaded: LoadedFactors) -> str:
    """Why the update of ``factors`` is not finite, in words."""
    parts = (
        ("lora_A", loaded.a, factors.a),
        ("lora_B", loaded.b, factors.b),
        ("lora_diag", loaded.diagonal, factors.diagonal),
    )
    bad = [
        name
        for name, bits, tensor in parts
        if bits is not None and tensor is not None and not np.isfinite(_decode(bits, tensor)).all()
    ]
    return f"{' and '.join(bad)} contain{'s' * (len(bad) == 1)} NaN or infinity" if bad else OVERFLOW


def _block_diagonal(x: Floats, blocks: int) -> Floats:
    """The block-diagonal matrix of a BD-LoRA factor, whose blocks are stacked in ``x``."""
    if blocks == 1:
        return x
    rows, columns = len(x) // blocks, x.shape[1]
    whole = np.zeros((len(x), columns * blocks), x.dtype)
    for i in range(blocks):
        whole[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = x[i * rows : (i + 1) * rows]
    return whole


def read_spectrum(one: Opened, base: BaseModel | None = None, norms: BaseNorms | None = None) -> Spectrum:
    """The spectrum of an adapter. With ``norms`` the base weight of each module is streamed, too.

    Raises:
        LoraCliError: what the sources raise.
    """
    factors, unreadable = factors_of(one.adapter, base)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda module: _one_spectrum(one, module, norms), factors))
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


def _one_spectrum(one: Opened, factors: Factors, norms: BaseNorms | None) -> tuple[ModuleSpectrum | Unreadable, str]:
    try:
        loaded = load_factors(one, factors)
        values = [tuple(map(float, singular_values(update))) for update in updates_of(factors, loaded)]
    except FormatError as error:
        return Unreadable(factors.module, error.reason), ""
    if not all(math.isfinite(math.hypot(*found)) for found in values):
        return Unreadable(factors.module, why_not_finite(factors, loaded)), ""
    base_norm, reason = norms.of(factors) if norms is not None else (None, "")
    return module_spectrum(factors, values, base_norm), reason
