"""What a module's update ``s · B @ A`` is, in numbers, without ever making it: ``[d_out, d_in]`` stays two factors.

With ``B = Q_B M_B`` and ``Aᵀ = Q_A M_A``, Q with orthonormal columns, it is ``Q_B (s M_B M_Aᵀ) Q_Aᵀ``: its singular
values, and so its norm, are those of the small matrix in the middle, ``[r, r]``. M comes from the Gram matrix of the
columns in float64, by its eigenvectors, so that factors of any rank need no other way; and where that is badly
conditioned once more from that of the columns which the first pass has made orthonormal, as in CholeskyQR2 (Yamamoto,
Nakatsukasa, Yanagisawa and Fukaya, ETNA 44, 2015). What is wrong in M is at most some 1e-12 of its largest singular
value. Two updates are compared in one basis of both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]

SOUND = 1e-8
"""An eigenvalue of the columns' Gram matrix (their lengths being 1) from which one pass is exact to some 1e-12."""

BLOCK = 1 << 17
"""Elements of a factor that are worked on at once, in float64: what the processor's own memory holds."""


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


class Relation(NamedTuple):
    """How an update and another one of the same shape lie to each other: norms, and the sum of their products.

    ``distance`` is the norm of ``other - one``, ``residual`` that of ``other - factor · one`` with the factor that
    makes it least (``inner / norm²``). ``spread`` and ``other_spread`` are the roots of ``Σ_j s² ‖b_j‖² ‖a_j‖²``, over
    the ranks: what the norm would be if the ranks were orthogonal, and what rounding errors are in proportion to.
    """

    norm: float
    other_norm: float
    inner: float
    factor: float
    distance: float
    residual: float
    spread: float
    other_spread: float


def core(update: Update) -> "Numbers":
    """A matrix ``[r, r]`` in float64 whose singular values are those of the update that may be above zero.

    It is not finite where a factor is not.
    """
    import numpy as np

    with np.errstate(all="ignore"):
        middle: Numbers = update.scaling * (_root(update.b.T) @ _root(update.a).T)
    return middle


def _root(x: "Numbers") -> "Numbers":
    """M ``[r, r]`` of ``xᵀ = Q M`` for ``x`` ``[r, n]``, in whichever order its elements lie; ``[n, r]`` if n < r."""
    import numpy as np

    r, n = x.shape
    if n <= r:
        return x.T.astype("f8")
    peak = float(np.abs(x).max(initial=0.0)) if x.dtype == np.float64 else 1.0  # whose squares may leave the range
    if not n or not peak or not np.isfinite(peak):
        return np.full((r, r), 0.0 if not n or not peak else np.nan)
    with np.errstate(all="ignore"):
        gram = _gram(x, peak, None)
        if not np.isfinite(gram).all():
            return np.full((r, r), np.nan)
        sizes = np.sqrt(np.diag(gram))
        inverse = np.divide(1.0, sizes, out=np.zeros(r), where=sizes > 0)
        gram *= np.outer(inverse, inverse)
        gram[sizes == 0, sizes == 0] = 1.0  # what is zero, as padding is, makes nothing worse
        root, whiten, least = _halves(gram)
        if least < SOUND:
            second, _, _ = _halves(_gram(x, peak, whiten * inverse))
            root = second @ root
        return np.asarray(root * (sizes * peak), "f8")


def _gram(x: "Numbers", peak: float, turn: "Numbers | None") -> "Numbers":
    """The products of the rows of ``x / peak`` with each other, or of those of ``turn @ x / peak``."""
    import numpy as np

    gram = np.zeros((len(x), len(x)))
    for block in _blocks(x, peak):
        turned = block if turn is None else turn @ block
        gram += turned @ turned.T
    return gram


def _blocks(x: "Numbers", peak: float) -> "Iterator[Numbers]":
    """``x / peak`` in float64, some columns at a time."""
    step = max(1, BLOCK // max(1, x.shape[0]))
    for start in range(0, x.shape[1], step):
        block = x[:, start : start + step].astype("f8")
        yield block if peak == 1.0 else block / peak


def _halves(gram: "Numbers") -> "tuple[Numbers, Numbers, float]":
    """H with ``Hᵀ H = gram``, what turns those columns into orthonormal ones, and the least eigenvalue.

    What lies below the rounding of the largest eigenvalue is noise: it is kept, and not blown up.
    """
    import numpy as np

    values, vectors = np.linalg.eigh(gram)
    roots = np.sqrt(np.maximum(values, np.finfo("f8").eps * max(values[-1], np.finfo("f8").tiny)))
    return vectors.T * roots[:, None], vectors.T / roots[:, None], float(values[0])


def singular_values(update: Update) -> "Numbers":
    """The singular values of the update that may be above zero, the largest first: ``r``, or fewer dimensions.

    They are NaN where a factor holds what is not finite.
    """
    import numpy as np

    middle = core(update)
    if not np.isfinite(middle).all():
        return np.full(1, np.nan)
    values: Numbers = np.linalg.svd(middle, compute_uv=False)
    return values[: max(1, min(update.shape))]


def norm(update: Update) -> float:
    """The Frobenius norm of the update."""
    import numpy as np

    with np.errstate(all="ignore"):
        return float(np.linalg.norm(core(update)))


def relation(one: Update, other: Update) -> Relation:
    """How ``other`` lies to ``one``, which has its shape and perhaps another rank. Nothing cancels, however near.

    All is NaN where a factor holds what is not finite.
    """
    import numpy as np

    r = one.a.shape[0]
    root_a, root_b = _root(_together(one.a, other.a)), _root(_together(one.b.T, other.b.T))
    with np.errstate(all="ignore"):
        first = one.scaling * (root_b[:, :r] @ root_a[:, :r].T)
        second = other.scaling * (root_b[:, r:] @ root_a[:, r:].T)
        size, other_size = float(np.linalg.norm(first)), float(np.linalg.norm(second))
        inner = float((first * second).sum())
        factor = inner / size**2 if size else 0.0
        spreads = np.linalg.norm(root_a, axis=0) * np.linalg.norm(root_b, axis=0)
        return Relation(
            size,
            other_size,
            inner,
            factor,
            float(np.linalg.norm(second - first)),
            float(np.linalg.norm(second - factor * first)),
            float(abs(one.scaling) * np.linalg.norm(spreads[:r])),
            float(abs(other.scaling) * np.linalg.norm(spreads[r:])),
        )


def _together(one: "Numbers", other: "Numbers") -> "Numbers":
    """Both below each other, in the order in which the elements of the first lie."""
    import numpy as np

    if one.flags.c_contiguous:
        return np.concatenate((one, other), axis=0)
    return np.concatenate((one.T, other.T), axis=1).T


def inner(one: Update, other: Update) -> float:
    """The sum of the products of both updates' elements, which have one shape."""
    return relation(one, other).inner


def difference(one: Update, other: Update) -> Update:
    """``one - other`` as one update, of both their ranks together, in float64."""
    import numpy as np

    b = np.concatenate((one.b.astype("f8") * one.scaling, other.b.astype("f8") * -other.scaling), axis=1)
    return Update(np.concatenate((one.a, other.a), axis=0, dtype="f8"), b, 1.0)


def distance(one: Update, other: Update) -> float:
    """The Frobenius norm of ``one - other``, by that of their difference's own factors: nothing cancels."""
    return norm(difference(one, other))
