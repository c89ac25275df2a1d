"""What a module's update ``s · B @ A`` is, in numbers, without ever making it: ``[d_out, d_in]`` stays two factors.

With ``B = Q_B R_B`` and ``Aᵀ = Q_A R_A`` (thin QR) it is ``Q_B (s R_B R_Aᵀ) Q_Aᵀ``: its singular values, and so its
norm, are those of the small matrix in the middle, ``[r, r]``. R comes from Cholesky factors, twice, in float64
(CholeskyQR2: Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, ETNA 44, 2015), which is as exact as Householder's QR for
factors that are no worse conditioned than 1e7, and many times as fast; others are left to that.
"""

from typing import TYPE_CHECKING, Any

from lora_cli.core.frozen import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]


WORST = 1e-7
"""Columns that lie closer to those before them are left to Householder's QR."""


@dataclass(frozen=True, slots=True)
class Update:
    """``scaling · b @ a``: ``a`` is ``[r, d_in]``, ``b`` is ``[d_out, r]``, both float32 or float64."""

    a: "Numbers"
    b: "Numbers"
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """``[d_out, d_in]``."""
        return self.b.shape[0], self.a.shape[1]


def core(update: Update) -> "Numbers":
    """A small matrix with the singular values of the update that may be above zero, in float64."""
    import numpy as np

    a, b = update.a.T.astype("f8"), update.b.astype("f8")
    norms = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0)
    # A rank that either factor leaves at zero, as padding does, adds nothing.
    alive = (norms[0] > 0) & (norms[1] > 0)
    if not alive.any():
        return np.zeros((1, 1))
    r_a, r_b = (_triangle(x[:, alive], size[alive]) for x, size in zip((a, b), norms, strict=True))
    middle: Numbers = update.scaling * (r_b @ r_a.T)
    return middle


def _triangle(x: "Numbers", norms: "Numbers") -> "Numbers":
    """R of the thin QR of ``x`` ``[n, r]``, whose columns have those ``norms``, up to the signs of its rows."""
    import numpy as np

    unit = x / norms
    try:
        first = np.linalg.cholesky(unit.T @ unit).T
        diagonal = np.diag(first)
        if len(x) >= len(first) and diagonal.min() > WORST:
            orthogonal = unit @ np.linalg.inv(first)
            second = np.linalg.cholesky(orthogonal.T @ orthogonal).T
            triangle: Numbers = (second @ first) * norms
            return triangle
    except np.linalg.LinAlgError:
        pass  # of less than full rank
    return np.asarray(np.linalg.qr(x, mode="r"), "f8")


def singular_values(update: Update) -> "Numbers":
    """The singular values of the update that may be above zero, the largest first: at most ``r``."""
    import numpy as np

    values: Numbers = np.linalg.svd(core(update), compute_uv=False)
    return values


def norm(update: Update) -> float:
    """The Frobenius norm of the update."""
    import numpy as np

    return float(np.linalg.norm(core(update)))


def inner(one: Update, other: Update) -> float:
    """The sum of the products of both updates' elements, which have one shape: ``s s' Σ (BᵀB' ∘ A A'ᵀ)``."""
    across = (one.b.T.astype("f8") @ other.b.astype("f8")) * (one.a.astype("f8") @ other.a.T.astype("f8"))
    return float(one.scaling * other.scaling * across.sum())


def difference(one: Update, other: Update) -> Update:
    """``one - other`` as one update, of both their ranks together, in float64."""
    import numpy as np

    b = np.concatenate((one.b.astype("f8") * one.scaling, other.b.astype("f8") * -other.scaling), axis=1)
    return Update(np.concatenate((one.a, other.a), axis=0, dtype="f8"), b, 1.0)


def distance(one: Update, other: Update) -> float:
    """The Frobenius norm of ``one - other``, by that of their difference's own factors: nothing cancels."""
    return norm(difference(one, other))
