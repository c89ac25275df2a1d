"""Popularity out of a file of weights."""

from collections import Counter
from pathlib import Path

import pytest

from lora_cli.bench.popularity import SCALE, MeasuredPopularity, read_popularity
from lora_cli.errors import NotFound, UsageError
from tests.requested import requested


def counted(file: Path, text: str) -> MeasuredPopularity:
    file.write_text(text)
    found = read_popularity(str(file))
    assert isinstance(found, MeasuredPopularity)
    return found


def test_names_come_with_their_weights_the_largest_first(tmp_path: Path) -> None:
    found = counted(tmp_path / "w.json", '{"rare": 0, "sql": 120, "chat": 40.0}')
    assert found.names == ("sql", "chat", "rare")
    assert found.weights(["chat", "sql"]) == (SCALE // 3, SCALE)
    counts = Counter(requested(["chat", "sql"], found, 4_000, 0))
    assert counts["sql"] == pytest.approx(3_000, abs=80)


def test_a_list_is_in_the_order_of_the_adapters(tmp_path: Path) -> None:
    found = counted(tmp_path / "w.json", "[1, 3]")
    assert found.weights(["a", "b"]) == (SCALE // 3, SCALE)
    with pytest.raises(UsageError, match="has 2 weights, but there are 3 adapters"):
        found.weights(["a", "b", "c"])


def test_an_adapter_without_a_weight_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='has no weight for "sql"'):
        counted(tmp_path / "w.json", '{"chat": 1}').weights(["chat", "sql"])


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "7", '{"a": -1}', '{"a": "1"}', '{"a": 0}', "[NaN]", "[1e19]"])
def test_a_wrong_file_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"w\.json"):
        counted(tmp_path / "w.json", text)


def test_a_file_has_at_most_100000_weights(tmp_path: Path) -> None:
    assert len(counted(tmp_path / "w.json", f"[{'1,' * 99_999}1]").counts) == 100_000
    with pytest.raises(UsageError, match="must have 1 to 100000 weights"):
        counted(tmp_path / "w.json", f"[{'1,' * 100_000}1]")


def test_a_file_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="not found"):
        read_popularity("nowhere.json")
