"""What an engine made of each adapter, beside what ``validate --engine`` says that it makes of it."""

import json
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_cli.cli.main import main
from lora_cli.finding import Outcome
from tests.real_engines.cases import MAX_LORA_RANK, Case

TOLERANCE = 2e-3
"""Of a log-probability: another order of sums in float32 moves it by 1e-5, an effect by far more."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One adapter in one engine: the outcome, what the engine said, and how far its answer was from what was meant.

    The distance is of log-probabilities; NaN where it did not answer, infinite where the answer is no number.
    """

    name: str
    observed: Outcome
    said: str = ""
    from_intended: float = float("nan")


def log_softmax(logits: Any) -> Any:
    """Log-probabilities, ``[..., vocab]``, of logits of the same shape."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def distance(answered: Any, intended: Any) -> float:
    """The largest difference between two arrays of log-probabilities; infinite where one is no number."""
    is_number = np.isfinite(answered).all() and np.isfinite(intended).all()
    return float(np.abs(answered - intended).max()) if is_number else float("inf")


def served(name: str, answered: Any, intended: Any) -> Seen:
    """What an engine that answers made of the adapter; log-probabilities of one shape, None for no right."""
    far = float("inf") if intended is None else distance(answered, intended)
    outcome = Outcome.OK if far <= TOLERANCE else Outcome.WRONG_OUTPUT
    return Seen(name, outcome, "", far)


def predictions(engine: str, base: Path, corpus: Sequence[Case], out: Path) -> dict[str, tuple[Outcome, str]]:
    """Each case's name to the outcome that ``validate`` says, and why; all are judged in one run of it."""
    judged = ("validate", "--engine", engine, "--max-lora-rank", str(MAX_LORA_RANK), "--base", str(base))
    main([*judged, "--format", f"json={out}", *(str(case.directory) for case in corpus)])
    found, outcomes = {}, {str(one): one for one in Outcome}
    for adapter in json.loads(out.read_text())["adapters"]:
        why = [f"{one['code']}: {one['message']}" for one in adapter["findings"] if one["effects"]]
        outcome = outcomes[adapter["engines"][0]["outcome"]]
        found[Path(urllib.parse.unquote(adapter["source"])).name] = outcome, "; ".join(why)
    return found


def disagreements(predicted: Mapping[str, tuple[Outcome, str]], seen: Iterable[Seen]) -> dict[str, str]:
    """The name of each adapter on which they differ, to one line that says how."""
    differ = {}
    for one in seen:
        said, why = predicted[one.name]
        if said is not one.observed:
            did = one.said or f"{one.from_intended:.2g} off"
            differ[one.name] = f"{one.name}: the engine {one.observed} ({did}), validate says {said} because of {why}"
    return differ
