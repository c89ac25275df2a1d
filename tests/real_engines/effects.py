"""From what an engine answered to what it made of the adapter."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np


class Observed(StrEnum):
    """What an engine made of an adapter, in the words of ``validate --engine ... --format json``."""

    OK = "ok"
    REJECTS = "rejects"
    CRASHES = "crashes"
    SERVES_WRONG = "serves-wrong"


@dataclass(frozen=True, slots=True)
class Seen:
    """One adapter in one engine: the outcome, what the engine said, and how far its answer was from two others.

    The distances are of log-probabilities, from what the adapter was made to answer and from the base's own answer;
    NaN where it did not answer, infinite where the answer is no number.
    """

    name: str
    observed: Observed
    said: str = ""
    from_intended: float = float("nan")
    from_base: float = float("nan")


TOLERANCE = 2e-3
"""Of a log-probability: another order of sums in float32 moves it by 1e-5, an effect by far more."""


def log_softmax(logits: Any) -> Any:
    """Log-probabilities, ``[..., vocab]``, of logits of the same shape."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def distance(answered: Any, intended: Any) -> float:
    """The largest difference between two arrays of log-probabilities; infinite where one is no number."""
    if not (np.isfinite(answered).all() and np.isfinite(intended).all()):
        return float("inf")
    return float(np.abs(answered - intended).max())


def served(name: str, answered: Any, intended: Any, plain: Any) -> Seen:
    """What an engine that answers made of the adapter; all are log-probabilities of one shape, or None for no right."""
    far = float("inf") if intended is None else distance(answered, intended)
    outcome = Observed.OK if far <= TOLERANCE else Observed.SERVES_WRONG
    return Seen(name, outcome, "", far, distance(answered, plain))
