"""Requests, prepared before the clock starts, and their results."""

import json
import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from lora_cli.bench.trace import Request, Trace

WORDS = ("the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "as", "with", "his", "they")
"""Words that are one token for nearly every tokenizer."""

FIRST_ID = 3
"""Smaller ids are special tokens of many models."""

PROMPTS = ("ids", "text")


class PreparedRequest(NamedTuple):
    """A request for the adapter ``name`` at ``time_s`` seconds from the start; ``body`` is JSON."""

    time_s: float
    name: str
    body: bytes


def prepare_requests(
    trace: Trace, models: Mapping[str, str], seed: int, vocabulary: int, prompts: str = "ids"
) -> list[PreparedRequest]:
    """The requests of ``trace`` with unique random prompts, so that a prefix cache does not help.

    ``models`` has the server's name of each adapter.
    """
    draw = random.Random(seed)  # noqa: S311 - prompts, not secrets
    return [
        PreparedRequest(one.time_s, one.adapter, _body(one, models[one.adapter], draw, vocabulary, prompts))
        for one in trace
    ]


def _completion_body(model: str, prompt: str | list[int], output_tokens: int) -> bytes:
    """A streamed greedy completion of exactly so many tokens, whose usage is in its last event."""
    value = {
        "model": model,
        "prompt": prompt,
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(value, separators=(",", ":")).encode()


def token_ids(draw: random.Random, tokens: int, vocabulary: int) -> list[int]:
    """This many ids below ``vocabulary``, none of them special."""
    return [FIRST_ID + one % (vocabulary - FIRST_ID) for one in array("H", draw.randbytes(2 * tokens))]


def _body(one: Request, model: str, draw: random.Random, vocabulary: int, prompts: str) -> bytes:
    tokens = max(one.prompt_tokens, 1)
    ids = token_ids(draw, tokens, vocabulary)
    prompt = ids if prompts == "ids" else " ".join(WORDS[number % len(WORDS)] for number in ids)
    return _completion_body(model, prompt, max(one.output_tokens, 1))


@dataclass(frozen=True, slots=True)
class RequestResult:
    """The result of one request. Times are seconds from the start of the run.

    It was to be sent at ``scheduled_s``; the generator was awake for it at ``woke_s`` and sent it at ``sent_s`` (later
    only where ``--max-concurrency`` held it back). ``chunks_s`` are when each piece of the answer came. ``tier`` and
    ``load_ms`` are those that the server reports, else "" and None. ``error`` is "" for a whole
    answer.
    """

    name: str
    scheduled_s: float
    woke_s: float
    sent_s: float
    chunks_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    tier: str = ""
    load_ms: float | None = None
    error: str = ""

    @property
    def first_s(self) -> float:
        """The time of its first chunk; infinite without one."""
        return self.chunks_s[0] if self.chunks_s else inf

    @property
    def last_s(self) -> float:
        """The time of its last chunk, or when it was sent."""
        return self.chunks_s[-1] if self.chunks_s else self.sent_s

    @property
    def ttft_s(self) -> float:
        """From its scheduled time to its first chunk; infinite for a failure."""
        return inf if self.error else self.first_s - self.scheduled_s

    @property
    def e2el_s(self) -> float:
        """From its scheduled time to its last chunk; infinite for a failure."""
        return inf if self.error else self.last_s - self.scheduled_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first; None if there is no second one, and for a failure."""
        if self.error or self.output_tokens <= 1:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        """The gaps between its chunks; none for a failure."""
        if self.error:
            return []
        return [later - earlier for earlier, later in zip(self.chunks_s, self.chunks_s[1:], strict=False)]
