"""Where each request found its adapter: as the server says, or by who asked for it first."""

from collections.abc import Sequence
from math import inf
from typing import Final

from lora_cli.bench.live.answer import Answer
from lora_cli.bench.measured import WORDS
from lora_cli.bench.report import LiveTier, TiersFrom

KINDS: tuple[LiveTier, ...] = ("hot", "warm", "cold", "later")
"""``later`` is what nobody knows more of: the server does not say, and the adapter was asked for before."""

INFERRED: Final = "inferred"
SERVER: Final = "server"


def kinds(answers: Sequence[Answer], used: set[str], slots: int | None = None) -> tuple[list[LiveTier], TiersFrom]:
    """The kind of each answer ("" where there is none), and who says so.

    A server that names tiers in ``x-lora-tier`` is believed. Elsewhere a request is ``cold`` when it was sent before
    its adapter had answered any; ``used`` are the adapters that had, before this run, and grows by those that do now.
    Where the server's metrics told how many ``slots`` it has, a later one is ``hot`` when its adapter is among the last
    so many that were asked for, which an engine that evicts the least recently used still has there, else ``warm``.
    """
    first_s: dict[str, float] = {}
    for one in answers:
        if not one.error:
            first_s[one.name] = min(first_s.get(one.name, inf), one.first_s)
    before = frozenset(used)
    used.update(first_s)
    if any(one.tier for one in answers):
        return [WORDS.get(one.tier, "") for one in answers], SERVER
    found: list[LiveTier] = [
        "cold" if one.name not in before and one.sent_s <= first_s.get(one.name, inf) else "later" for one in answers
    ]
    return (found if slots is None else _by_recency(answers, found, slots)), INFERRED


def _by_recency(answers: Sequence[Answer], found: Sequence[LiveTier], slots: int) -> list[LiveTier]:
    """The same, with each ``later`` told apart: whether its adapter is among the last ``slots`` that were asked for."""
    told = list(found)
    recent: dict[str, None] = {}
    for number in sorted(range(len(answers)), key=lambda number: answers[number].sent_s):
        name = answers[number].name
        if told[number] == "later":
            told[number] = "hot" if name in list(recent)[-slots:] else "warm"
        recent.pop(name, None)
        recent[name] = None
    return told
