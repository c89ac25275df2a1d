"""What the real vLLM makes of each adapter of the corpus: loaded over HTTP, and asked for every log-probability."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.real_engines.bases import VOCABULARY
from tests.real_engines.cases import SPOILING, Case
from tests.real_engines.effects import Observed, Seen, log_softmax, served
from tests.real_engines.vllm_server import Died, Reply, Server, log_probabilities, serving

LENGTHS = (3, 8, 16)
PROMPTS = [list(range(start, start + length)) for start in range(0, 64, 16) for length in LENGTHS]
"""Beginnings of the token sequences of ``peft_judge.logits``."""

NO_NUMBER = "Out of range float values are not JSON compliant"
"""What the server says of log-probabilities that are NaN; without ``logprobs`` it answers 200 with some text."""


def observed(base: Path, corpus: Sequence[Case], log: Path) -> Iterator[Seen]:
    """Every case on the base's server. One that went down is started again, and that is the case's outcome.

    It is also started again after an adapter that answers with NaN: they stay in the blocks of the KV cache, and
    whoever is given such a block next answers with NaN too.
    """
    waiting = sorted(corpus, key=lambda case: case.name in SPOILING)
    while waiting:
        with serving(base, log) as server:
            plain = log_probabilities(server.answer("base", PROMPTS, VOCABULARY), VOCABULARY)
            while waiting:
                seen = _tried(server, waiting.pop(0), plain)
                yield seen
                spoilt = seen.from_base == float("inf") and any(case.name not in SPOILING for case in waiting)
                if spoilt or not server.alive():
                    break


def _tried(server: Server, case: Case, plain: Any) -> Seen:
    """Load, ask, unload."""
    try:
        loaded = server.load(case.name, case.directory)
        if loaded.status != 200:
            return Seen(case.name, Observed.REJECTS, _said(loaded))
        reply = server.answer(case.name, PROMPTS, VOCABULARY)
        server.unload(case.name)
    except Died as died:
        return Seen(case.name, Observed.CRASHES, f"went down: {died}")
    if reply.status == 400 and NO_NUMBER in reply.text:
        return Seen(case.name, Observed.SERVES_WRONG, _said(reply), float("inf"), float("inf"))
    if reply.status != 200:
        return Seen(case.name, Observed.CRASHES, _said(reply))
    return served(case.name, log_probabilities(reply, VOCABULARY), meant(case.intended), plain)


def meant(logits: Any) -> Any:
    """Log-probabilities of the logits that an adapter was made to answer with, ``[prompts, vocab]``; None of None."""
    if logits is None:
        return None
    ends = logits.numpy()[:, [length - 1 for length in LENGTHS]]
    return log_softmax(ends.reshape(-1, ends.shape[-1]))


def _said(reply: Reply) -> str:
    return f"{reply.status} {reply.text}"[:600]
