"""``--goodput ttft:500``: what a request must keep to be a good one."""

from collections.abc import Mapping, Sequence
from math import inf

from lora_cli.bench.live.answer import Answer
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.errors import UsageError

MEASURES = ("ttft", "tpot", "e2el")

Slo = Mapping[str, float]
"""Milliseconds that a measure may take, by its name."""


def parse_goodput(texts: Sequence[str]) -> Slo:
    """``ttft:500``, and several of them in one text with commas or spaces.

    Raises:
        UsageError: a word is none.
    """
    found: dict[str, float] = {}
    for word in (word for text in texts for word in text.replace(",", " ").split()):
        name, _, number = word.partition(":")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in MEASURES or not 0 <= value < inf:
            raise UsageError(
                f"--goodput {word[:60]}: must be ttft, tpot or e2el, a colon and milliseconds",
                hint="--goodput ttft:500 tpot:50",
            )
        found[name] = value
    return found


def milliseconds(answer: Answer, measure: str) -> float:
    """What an answer took of a measure; no token after the first is no time for one (as in vLLM), a failure is inf."""
    if answer.error:
        return inf
    if measure == "tpot":
        return (answer.tpot_s or 0.0) * 1e3
    return (answer.ttft_s if measure == "ttft" else answer.e2el_s) * 1e3


def is_good(answer: Answer, slo: Slo) -> bool:
    """Whether it keeps all of ``slo``; a failure keeps none."""
    return not answer.error and all(milliseconds(answer, name) <= most for name, most in slo.items())


def keeps(answers: Sequence[Answer], slo: Slo) -> bool:
    """Whether 99 % of an adapter's requests keep each part of ``slo``."""
    return all(
        nearest_rank(sorted(milliseconds(one, name) for one in answers), 0.99) <= most for name, most in slo.items()
    )
