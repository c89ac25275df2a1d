"""One request as it goes over the wire: its time, and its body made before the clock runs."""

import json
import random
from array import array
from collections.abc import Mapping
from typing import NamedTuple

from lora_cli.bench.trace import Request, Trace

WORDS = ("the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "as", "with", "his", "they")
"""Words that are one token for nearly every tokenizer."""

FIRST_ID = 3
"""What is below is the begin or the end of a text for many models."""

PROMPTS = ("ids", "text")


class Ask(NamedTuple):
    """A request for the adapter ``name`` at ``time_s`` seconds from the start; ``body`` is JSON."""

    time_s: float
    name: str
    body: bytes


def asks(trace: Trace, models: Mapping[str, str], seed: int, vocabulary: int, prompts: str = "ids") -> list[Ask]:
    """The requests of ``trace`` with prompts that nobody else has sent: no two share what a server could keep.

    ``models`` says what the server calls each adapter.
    """
    draw = random.Random(seed)  # noqa: S311 - prompts, not secrets
    return [Ask(one.time_s, one.adapter, _body(one, models[one.adapter], draw, vocabulary, prompts)) for one in trace]


def body_of(model: str, prompt: str | list[int], output_tokens: int) -> bytes:
    """A streamed greedy completion of exactly so many tokens, whose usage is told at its end."""
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
    """So many ids below ``vocabulary``, none of them special."""
    return [FIRST_ID + one % (vocabulary - FIRST_ID) for one in array("H", draw.randbytes(2 * tokens))]


def _body(one: Request, model: str, draw: random.Random, vocabulary: int, prompts: str) -> bytes:
    tokens = max(one.prompt_tokens, 1)
    ids = token_ids(draw, tokens, vocabulary)
    prompt = ids if prompts == "ids" else " ".join(WORDS[number % len(WORDS)] for number in ids)
    return body_of(model, prompt, max(one.output_tokens, 1))
