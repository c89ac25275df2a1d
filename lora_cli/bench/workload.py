"""Seeded sequences of requests, the same on every machine: drawn independently, drifting, scanned, in sessions.

All of them take names, the most popular first, and give ``requests`` of them; they raise ``ValueError`` where there are
no names or a number is negative. The first part of a longer trace is the shorter one.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle, islice

from lora_cli.bench.draws import Draws
from lora_cli.bench.popularity import TURNS, Popularity, weights


def make_trace(names: Sequence[str], popularity: Popularity, requests: int, seed: int) -> tuple[str, ...]:
    """Each request drawn independently by ``popularity``; ``round-robin`` and ``distinct`` take the names in turn."""
    _check(names, requests, seed)
    if popularity.family in TURNS:
        return tuple(islice(cycle(names), requests))
    draws, upto = Draws(seed), _upto(popularity, names)
    return tuple(names[draws.of(upto)] for _ in range(requests))


def make_drift(
    names: Sequence[str], popularity: Popularity, requests: int, seed: int, *, percent: int = 20, every: int = 5_000
) -> tuple[str, ...]:
    """After each ``every`` requests, ``percent`` of the names change places in popularity (100: all of them)."""
    _check(names, requests, seed, percent, every - 1)
    draws, upto, order = Draws(seed), _upto(popularity, names), list(names)
    moved = len(names) * percent // 100

    def asked() -> Iterator[str]:
        for number in range(requests):
            if number and number % every == 0:
                places = draws.shuffled(range(len(order)))[:moved]
                for place, name in zip(places, draws.shuffled([order[place] for place in places]), strict=True):
                    order[place] = name
            yield order[draws.of(upto)]

    return tuple(asked())


def make_scan(
    names: Sequence[str], popularity: Popularity, requests: int, seed: int, *, percent: int = 10
) -> tuple[str, ...]:
    """``percent`` of the requests ask for the names in turn (a check of all adapters), the others by popularity."""
    _check(names, requests, seed, percent)
    draws, upto, turn = Draws(seed), _upto(popularity, names), cycle(names)
    return tuple(next(turn) if draws.below(100) < percent else names[draws.of(upto)] for _ in range(requests))


def make_sessions(
    names: Sequence[str], popularity: Popularity, requests: int, seed: int, *, users: int = 64, turns: int = 5
) -> tuple[str, ...]:
    """``users`` at once, each with one adapter for ``turns`` requests, then another; who asks is chance."""
    _check(names, requests, seed, users - 1, turns - 1)
    draws, upto = Draws(seed), _upto(popularity, names)
    chosen = [names[draws.of(upto)] for _ in range(users)]
    left = [1 + draws.below(turns) for _ in range(users)]

    def asked() -> Iterator[str]:
        for _ in range(requests):
            user = draws.below(users)
            if not left[user]:
                chosen[user], left[user] = names[draws.of(upto)], turns
            left[user] -= 1
            yield chosen[user]

    return tuple(asked())


def _upto(popularity: Popularity, names: Sequence[str]) -> list[int]:
    return list(accumulate(weights(popularity, len(names))))


def _check(names: Sequence[str], *numbers: int) -> None:
    if not names or min(numbers) < 0:
        raise ValueError("a trace needs names, and numbers that are not negative")
