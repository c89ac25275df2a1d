"""Canary prompts show whether an adapter changes a server's output: a load answered with 200 does not prove it."""

import threading
from dataclasses import dataclass
from math import inf

from lora_cli.endpoint.servers import Completion, Prompt, Server

CANARIES: tuple[Prompt, ...] = (
    tuple(range(3, 19)),  # token ids: a tokenizer without these words maps all of them to one token
    "The quick brown fox",
    "Q: What is the capital of France?\nA:",
)
TOKENS = 8
LEAST = 1e-5
"""Smaller differences of log-probabilities are rounding: float32 keeps seven digits of a logit."""

NOISE = 4.0
"""The effect must exceed this multiple of the base's own difference between two requests."""


@dataclass(frozen=True, slots=True)
class Effect:
    """An adapter's effect: ``shift`` is the largest change of a log-probability; inf: other tokens.

    ``proved`` says whether that is more than between two requests to the base; None if that is not known.
    """

    proved: bool | None
    how: str
    shift: float = 0.0


class CanaryProof:
    """Proves the effect of adapters on one server. Caches the base's two responses to each canary; thread-safe."""

    def __init__(self, server: Server, base: str) -> None:
        self._server, self._base_name = server, base
        self._known: dict[Prompt, tuple[Completion, float]] = {}
        self._lock = threading.Lock()

    def effect(self, name: str) -> Effect:
        """The effect, by the first canary that shows one. Raises ``EndpointError``: a request failed."""
        shifts: list[float] = []
        for prompt in CANARIES:
            base, noise = self._base(prompt)
            if noise == inf:
                continue
            shift = _logprob_difference(base, self._server.complete(name, prompt, TOKENS))
            shifts.append(shift)
            if shift > max(LEAST, NOISE * noise):
                how = "other tokens" if shift == inf else f"log-probabilities by {shift:.2g}"
                return Effect(True, how, shift)
        if not shifts:
            return Effect(None, "the base's own output differs between requests")
        return Effect(False, "gives the same output as the base", max(shifts))

    def _base(self, prompt: Prompt) -> tuple[Completion, float]:
        """The base's completion, and its difference from a second one."""
        with self._lock:
            if prompt not in self._known:
                first, second = (self._server.complete(self._base_name, prompt, TOKENS) for _ in range(2))
                self._known[prompt] = first, _logprob_difference(first, second)
            return self._known[prompt]


def _logprob_difference(one: Completion, other: Completion) -> float:
    """The distance of two completions: inf for other tokens, else the largest difference of log-probabilities."""
    if (one.text, one.tokens) != (other.text, other.tokens):
        return inf
    pairs = zip(one.logprobs, other.logprobs, strict=False)
    return max((abs(mine - yours) for mine, yours in pairs), default=0.0)
