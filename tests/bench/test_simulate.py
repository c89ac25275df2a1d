"""The simulated hits against plain lists, and against what cannot be beaten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.simulate import metric_names, simulate

TRACES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


@given(TRACES, st.integers(1, 4), st.integers(0, 3))
def test_lru_is_what_plain_lists_say(names: list[str], slots: int, more: int) -> None:
    device, memory, hits, from_disk = list[str](), list[str](), 0, 0
    for name in names:
        if name in device:
            hits += 1
            device.remove(name)
        else:
            from_disk += name not in memory
            memory = [*(one for one in memory if one != name), name][-slots - more :]
        device = [*device, name][-slots:]
    found = simulate(names, [slots], slots + more)
    assert set(found) == set(metric_names([slots], slots + more))
    assert found[f"lru_hit_ratio_{slots}"] == pytest.approx(hits / len(names))
    assert found[f"lru_disk_ratio_{slots}"] == pytest.approx(from_disk / len(names))


def most_hits(names: str, slots: int, held: frozenset[str] = frozenset()) -> int:
    """By trying everything."""
    if not names:
        return 0
    if names[0] in held:
        return 1 + most_hits(names[1:], slots, held)
    room = [held] if len(held) < slots else [held - {one} for one in held]
    return max(most_hits(names[1:], slots, one | {names[0]}) for one in room)


@given(st.text("abcde", min_size=1, max_size=10), st.integers(1, 3))
def test_no_policy_has_more_hits_than_belady_which_has_as_many_as_can_be(names: str, slots: int) -> None:
    found = simulate(list(names), [slots])
    assert max(found.values()) == found[f"belady_hit_ratio_{slots}"]
    assert found[f"belady_hit_ratio_{slots}"] == pytest.approx(most_hits(names, slots) / len(names))
