"""Adapters' ranks."""

from collections import Counter

import pytest

from lora_cli.bench.simulator import parse_ranks
from lora_cli.errors import UsageError

NAMES = [f"a{i}" for i in range(500)]


def test_about_as_many_have_each_rank_as_the_shares_say() -> None:
    counts = Counter(parse_ranks("8:.4,16:.4,64:.2").of(NAMES, 1).values())
    assert counts[8] == pytest.approx(200, abs=25)
    assert counts[16] == pytest.approx(200, abs=25)
    assert counts[64] == pytest.approx(100, abs=25)


def test_a_rank_is_the_adapters_own_whoever_else_is_there() -> None:
    ranks = parse_ranks("8,16,32,64")
    everybody, some, other = ranks.of(NAMES, 1), ranks.of(NAMES[100:120][::-1], 1), ranks.of(NAMES, 2)
    assert some == {name: everybody[name] for name in NAMES[100:120]}
    assert everybody != other


@pytest.mark.parametrize("text", ["", "x", "0", "8:0", "8:-1", "8:x", "8:nan", "8,,16", "1.5", "8:" + "1" * 30, "٣"])
def test_wrong_ranks_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be ranks and their shares"):
        parse_ranks(text)
