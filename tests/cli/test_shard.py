import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.cli.options import in_shard
from lora_cli.errors import UsageError


def names_in(shard: str, names: list[str]) -> tuple[str, ...]:
    return in_shard(names, shard, str)


@given(st.text(max_size=40), st.integers(1, 50))
def test_every_name_is_in_exactly_one_part(name: str, count: int) -> None:
    assert [name] == [found for index in range(count) for found in names_in(f"{index}/{count}", [name])]


def test_the_parts_are_the_same_on_every_machine_and_of_like_size() -> None:
    names = [f"adapter-{number}" for number in range(400)]
    sizes = [len(names_in(f"{index}/4", names)) for index in range(4)]
    assert sum(sizes) == 400
    assert min(sizes) > 70
    assert names_in("1/4", names[:8]) == ("adapter-1", "adapter-4", "adapter-5", "adapter-7")


@pytest.mark.parametrize("text", ["", "1", "4/4", "1/0", "-1/2", "1/2/3", "a/b", "0/100001", "١/٢"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        names_in(text, [])
