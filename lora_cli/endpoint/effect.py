"""Whether an adapter changes what a server says: a load that was answered with 200 proves nothing of that."""

from collections.abc import Sequence
from math import inf

from lora_cli.core.frozen import dataclass
from lora_cli.endpoint.ours import Ours
from lora_cli.endpoint.server import Prompt, Said, Server

CANARIES: tuple[Prompt, ...] = (
    "The quick brown fox",
    "Q: What is the capital of France?\nA:",
    tuple(range(3, 19)),  # token ids: a tokenizer that knows none of these words makes one and the same of all of them
)
TOKENS = 8
LEAST = 1e-5
"""Log-probabilities that differ by less are the same: float32 keeps seven digits of a logit."""

NOISE = 4.0
"""So many times the base's own difference from one request to the next is no effect yet."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What an adapter changes: ``shift`` is the largest change of a log-probability; inf: other tokens.

    ``noise`` is the same of the base, asked twice. ``proved`` is True where the adapter's effect is more than that,
    None where it cannot be told.
    """

    proved: bool | None
    shift: float = 0.0
    noise: float = 0.0
    how: str = ""


class Canaries:
    """Holds what a server's base says to each canary, twice; asked for with the first adapter.

    Raises:
        EndpointError: the server does not answer.
    """

    def __init__(self, server: Server, base: str, prompts: Sequence[Prompt] = CANARIES) -> None:
        self._server, self._prompts = server, prompts
        self._base = [server.complete(base, prompt, TOKENS) for prompt in prompts]
        self._noise = [
            _shift(before, server.complete(base, prompt, TOKENS))
            for before, prompt in zip(self._base, prompts, strict=True)
        ]

    def effect(self, name: str) -> Effect:
        """What the adapter changes, by the first canary that tells. Raises ``EndpointError``."""
        told = False
        worst = 0.0
        for prompt, base, noise in zip(self._prompts, self._base, self._noise, strict=True):
            if noise == inf:
                continue
            told = True
            shift = _shift(base, self._server.complete(name, prompt, TOKENS))
            worst = max(worst, shift)
            if shift > max(LEAST, NOISE * noise):
                return Effect(
                    True, shift, noise, "other tokens" if shift == inf else f"log-probabilities by {shift:.2g}"
                )
        if not told:
            return Effect(None, 0.0, inf, "the base's own answers change from one request to the next")
        return Effect(False, worst, max(noise for noise in self._noise if noise != inf), "answers as the base does")


def effect_of(server: Server, base: str, name: str, canaries: "Canaries | None") -> tuple[Effect, "Canaries | None"]:
    """The adapter's effect, and the canaries for the next one. Our own server has proved it module by module."""
    if isinstance(server, Ours):
        worst = server.proof(name)
        if worst is not None:
            return Effect(True, how=f"every module proved, worst error {worst:.1e}"), canaries
        return Effect(False, how="it has not proved it"), canaries
    canaries = canaries or Canaries(server, base)
    return canaries.effect(name), canaries


def _shift(one: Said, other: Said) -> float:
    """How far two answers are apart: inf for other tokens, else the largest difference of their log-probabilities."""
    if (one.text, one.tokens) != (other.text, other.tokens):
        return inf
    pairs = zip(one.logprobs, other.logprobs, strict=False)
    return max((abs(mine - yours) for mine, yours in pairs), default=0.0)
