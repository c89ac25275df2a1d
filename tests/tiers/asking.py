"""A tier of words, and one who asks it."""

from collections.abc import Callable

from lora_cli.tiers.eviction import Lru
from lora_cli.tiers.memory_accounting import Budget, Ledger
from lora_cli.tiers.tier import Tier


def tier(
    items: int,
    max_bytes: int | None = None,
    *,
    weigh: Callable[[str], int] = lambda key: 1,
    load: Callable[[str], str] = str.upper,
    dropped: list[str] | None = None,
) -> Tier[str]:
    def drop(key: str, value: str) -> None:
        assert value == key.upper()
        if dropped is not None:
            dropped.append(key)

    return Tier(Ledger(Budget(items, max_bytes), Lru(), name="cpu"), weigh=weigh, load=load, drop=drop)


def ask(tier: Tier[str], *keys: str) -> list[bool]:
    hits = []
    for key in keys:
        before = tier.counts().hits
        with tier.lease(key) as value:
            assert value == key.upper()
            hits.append(tier.counts().hits > before)
    return hits
