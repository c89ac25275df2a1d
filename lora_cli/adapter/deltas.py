"""Norms and distances of updates ``s · B @ A``, without computing the ``[d_out, d_in]`` product.

With ``B = Q_B M_B`` and ``Aᵀ = Q_A M_A``, Q with orthonormal columns, the update is ``Q_B (s M_B M_Aᵀ) Q_Aᵀ``: its
singular values, and so its norm, are those of the small matrix in the middle, ``[r, r]``. M is computed from the Gram
matrix of the columns in float64, by its eigenvectors, which works for factors of any rank. Where it is badly
conditioned, a second pass uses the columns that the first has made orthonormal, as in CholeskyQR2 (Yamamoto,
Nakatsukasa, Yanagisawa and Fukaya, ETNA 44, 2015). The error of M is at most about 1e-12 of its largest singular value.
"""

from dataclasses import dataclass

import numpy as np

from lora_cli.adapter.values import Floats

SOUND = 1e-8
"""The least eigenvalue of the Gram matrix of normalised columns for which one pass is exact to about 1e-12."""


@dataclass(frozen=True, slots=True)
class Update:
    """``scaling · b @ a``: ``a`` is ``[r, d_in]``, ``b`` is ``[d_out, r]``, both float32 or float64."""

    a: Floats
    b: Floats
    scaling: float


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


def norm(update: Update) -> float:
    """The Frobenius norm of the update; not finite if a factor is not."""
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(update.scaling * (_root(update.b.T) @ _root(update.a).T)))


def distance(one: Update, other: Update) -> float:
    """The Frobenius norm of ``one - other``, from the factors of the difference: without cancellation."""
    b = np.concatenate((one.b.astype("f8") * one.scaling, other.b.astype("f8") * -other.scaling), axis=1)
    return norm(Update(np.concatenate((one.a, other.a), axis=0, dtype="f8"), b, 1.0))
