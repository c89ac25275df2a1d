"""Where each request found its adapter: as the server says, or by who asked for it first."""

from collections.abc import Sequence
from math import inf

from lora_cli.bench.live.answer import Answer
from lora_cli.bench.measured import WORDS

KINDS = ("hot", "warm", "cold", "later")
"""``later`` is what nobody knows more of: the server does not say, and the adapter was asked for before."""

INFERRED, SERVER = "inferred", "server"


def kinds(answers: Sequence[Answer], used: set[str]) -> tuple[list[str], str]:
    """The kind of each answer ("" where there is none), and who says so.

    A server that names tiers in ``x-lora-tier`` is believed. Elsewhere a request is ``cold`` when it was sent before
    its adapter had answered any; ``used`` are the adapters that had, before this run, and grows by those that do now.
    """
    first_s: dict[str, float] = {}
    for one in answers:
        if not one.error:
            first_s[one.name] = min(first_s.get(one.name, inf), one.first_s)
    before = frozenset(used)
    used.update(first_s)
    if any(one.tier for one in answers):
        return [WORDS.get(one.tier, "") for one in answers], SERVER
    return [
        "cold" if one.name not in before and one.sent_s <= first_s.get(one.name, inf) else "later" for one in answers
    ], INFERRED
