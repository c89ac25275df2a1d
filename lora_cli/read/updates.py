"""What a module's update ``s · B @ A`` is, in numbers, without ever making it: ``[d_out, d_in]`` stays two factors.

With ``B = Q_B R_B`` and ``Aᵀ = Q_A R_A`` (thin QR) it is ``Q_B (s R_B R_Aᵀ) Q_Aᵀ``: its singular values, and so its
norm, are those of the small matrix in the middle, ``[r, r]``. Squares of the factors (Gram matrices) would take half
the time and lose half the digits.
"""

import math
from typing import TYPE_CHECKING, Any

from lora_cli.core.frozen import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]


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
    """A small matrix with the singular values of the update, ``[min(d_out, r), min(d_in, r)]``, in float64."""
    import numpy as np

    r_b = np.asarray(np.linalg.qr(update.b, mode="r"), "f8")
    r_a = np.asarray(np.linalg.qr(update.a.T, mode="r"), "f8")
    middle: Numbers = update.scaling * (r_b @ r_a.T)
    return middle


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
    return norm(difference(one, other)) if one.a.size and other.a.size else math.hypot(_norm(one), _norm(other))


def _norm(update: Update) -> float:
    return norm(update) if update.a.size else 0.0
