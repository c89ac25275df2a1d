"""Whether an adapter changes what a server says: a load that was answered with 200 proves nothing of that."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from lora_cli.endpoint.servers import Completion, LoraCliServer, Prompt, Server

CANARIES: tuple[Prompt, ...] = (
    tuple(range(3, 19)),  # token ids: a tokenizer that knows none of the words makes one and the same of all of them
    "The quick brown fox",
    "Q: What is the capital of France?\nA:",
)
TOKENS = 8
LEAST = 1e-5
"""Log-probabilities that differ by less are the same: float32 keeps seven digits of a logit."""

NOISE = 4.0
"""Up to this multiple of the base's own difference between two requests there is no effect."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What an adapter changes: ``shift`` is the largest change of a log-probability; inf: other tokens.

    ``noise`` is the same of the base, asked twice. ``proved`` is True where the adapter's effect is more than that,
    None if it is not known.
    """

    proved: bool | None
    how: str
    shift: float = 0.0
    noise: float = 0.0


class CanaryProof:
    """Proves the effect of adapters on one server. Holds what its base says to each canary, twice; threads share it."""

    def __init__(self, server: Server, base: str, prompts: Sequence[Prompt] = CANARIES) -> None:
        self._server, self._base_name, self._prompts = server, base, prompts
        self._known: dict[Prompt, tuple[Completion, float]] = {}
        self._lock = threading.Lock()

    def effect(self, name: str) -> Effect:
        """What the adapter changes, by the first canary that shows it; our own server proved it module by module.

        Raises:
            EndpointError: the server does not answer.
        """
        if isinstance(self._server, LoraCliServer):
            worst = self._server.proof(name)
            if worst is None:
                return Effect(None, "the server has not proved it")
            return Effect(True, f"all modules proved, max error {worst:.1e}")
        shifts: list[float] = []
        noises: list[float] = []
        for prompt in self._prompts:
            base, noise = self._base(prompt)
            if noise == inf:
                continue
            shift = _logprob_difference(base, self._server.complete(name, prompt, TOKENS))
            shifts.append(shift)
            noises.append(noise)
            if shift > max(LEAST, NOISE * noise):
                how = "other tokens" if shift == inf else f"log-probabilities by {shift:.2g}"
                return Effect(True, how, shift, noise)
        if not shifts:
            return Effect(None, "the base's own answers differ between requests", noise=inf)
        return Effect(False, "answers as the base does", max(shifts), max(noises))

    def _base(self, prompt: Prompt) -> tuple[Completion, float]:
        """What the base says, and how far it is from itself."""
        with self._lock:
            if prompt not in self._known:
                first, second = (self._server.complete(self._base_name, prompt, TOKENS) for _ in range(2))
                self._known[prompt] = first, _logprob_difference(first, second)
            return self._known[prompt]


def _logprob_difference(one: Completion, other: Completion) -> float:
    """How far two answers are apart: inf for other tokens, else the largest difference of their log-probabilities."""
    if (one.text, one.tokens) != (other.text, other.tokens):
        return inf
    pairs = zip(one.logprobs, other.logprobs, strict=False)
    return max((abs(mine - yours) for mine, yours in pairs), default=0.0)
