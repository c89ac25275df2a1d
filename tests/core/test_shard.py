import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.core.shard import Shard, parse_shard
from lora_cli.errors import UsageError


@given(st.text(max_size=40), st.integers(1, 50))
def test_every_name_is_in_exactly_one_part(name: str, count: int) -> None:
    assert sum(Shard(index, count).has(name) for index in range(count)) == 1


def test_the_parts_are_the_same_on_every_machine_and_of_like_size() -> None:
    names = [f"adapter-{number}" for number in range(400)]
    sizes = [sum(Shard(index, 4).has(name) for name in names) for index in range(4)]
    assert sum(sizes) == 400
    assert min(sizes) > 70
    assert [name for name in names[:8] if parse_shard("1/4").has(name)] == [
        "adapter-1",
        "adapter-4",
        "adapter-5",
        "adapter-7",
    ]


@pytest.mark.parametrize("text", ["", "1", "4/4", "1/0", "-1/2", "1/2/3", "a/b", "0/100001", "١/٢"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)
