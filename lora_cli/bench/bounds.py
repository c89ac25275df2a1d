"""What no policy can beat where Belady's is not the best: adapters of several sizes, costs or tiers.

To find the optimum is NP-hard there. The bound lets an adapter that is asked for again stay for its part of the tier's
room added up over the whole trace, instead of for its room at every moment: the best stays are taken first, the last
one in part (Berger, Beckmann and Harchol-Balter, "Practical Bounds on Optimal Caching with Variable Object Sizes",
ACM SIGMETRICS 2018, whose PFOO-L it is). Whoever is asked for takes its own room at that moment.
"""

from collections.abc import Callable, Mapping, Sequence
from math import fsum

from lora_cli.bench.belady import belady, next_requests
from lora_cli.bench.fleet import Fleet
from lora_cli.tiers.budget import Budget


def most_hits(keys: Sequence[str], fleet: Fleet) -> float:
    """The most requests that can find their adapter in a slot."""
    return _saved(keys, fleet, fleet.gpu, lambda _name: 1.0)


def least_cost_ms(keys: Sequence[str], fleet: Fleet) -> float:
    """The least milliseconds that all loads together can take.

    A slot is filled at least as often as slots alone make necessary, and the disk is read at least as often as it
    would be if slots and memory were one place.
    """
    cost = fsum(fleet.put_ms(key) + fleet.read_ms(key) for key in keys)
    both = (fleet.gpu.max_bytes, fleet.cpu.max_bytes)
    together = Budget(
        fleet.gpu.items + fleet.cpu.items,
        None if both[0] is None or both[1] is None else both[0] + both[1],
    )
    return cost - _saved(keys, fleet, fleet.gpu, fleet.put_ms) - _saved(keys, fleet, together, fleet.read_ms)


def _saved(keys: Sequence[str], fleet: Fleet, budget: Budget, value: Callable[[str], float]) -> float:
    """The most that hits can save, each of them the ``value`` of its adapter: the tightest bound that holds."""
    values = {name: value(name) for name in fleet.sizes}
    found = [_relaxed(keys, budget.items, dict.fromkeys(values, 1), values)]
    if budget.max_bytes is not None:
        found.append(_relaxed(keys, budget.max_bytes, fleet.sizes, values))
    if len(set(values.values())) == 1:
        found.append(sum(belady(keys, budget.items)[0]) * next(iter(values.values())))
    return min(found)


def _relaxed(keys: Sequence[str], capacity: int, sizes: Mapping[str, int], values: Mapping[str, float]) -> float:
    room, saved = 0, 0.0
    stays: list[tuple[float, float, int]] = []
    for number, (key, then) in enumerate(zip(keys, next_requests(keys), strict=True)):
        size = sizes[key]
        room += max(0, capacity - size)
        area = size * (then - number - 1)
        if then == len(keys):
            continue
        if area:
            stays.append((-values[key] / area, values[key], area))
        else:
            saved += values[key]
    left: float = room
    for _, worth, area in sorted(stays):
        if area >= left:
            return saved + worth * left / area
        saved += worth
        left -= area
    return saved
