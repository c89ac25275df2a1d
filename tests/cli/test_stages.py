"""What a terminal shows while ``warm`` runs, and that it shows nothing where it should not."""

import re
from pathlib import Path

import pytest

from tests.cli.test_progress import drawn_in, on_a_terminal, screen
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config
from tests.slow import slowly

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])


@pytest.fixture
def warm(tmp_path: Path) -> list[str]:
    """The words that warm three adapters, of which one is refused."""
    write_base_config(tmp_path / "base")
    for seed, name in enumerate(("one", "two")):
        write_adapter(tmp_path / name, modules=QUERIES, seed=seed)
    write_adapter(tmp_path / "bad", modules=QUERIES, drop=lambda name: "lora_B" in name)
    adapters = [str(tmp_path / name) for name in ("one", "bad", "two")]
    words = ["warm", *adapters, "--base", str(tmp_path / "base"), "--device", "cpu"]
    return ["--cache-dir", str(tmp_path / "cache"), *words]


def counts_in(shown: str) -> list[str]:
    return [line for line in drawn_in(shown) if re.search(r"\d of \d (accepted|verified)", line)]


def test_a_terminal_shows_each_stage_and_keeps_the_table_alone(warm: list[str]) -> None:
    code, shown = on_a_terminal(warm, columns=70, rows=24)
    assert code == 1
    drawn = counts_in(shown)
    assert any("2 of 3 verified, 1 failed" in line for line in drawn)
    assert "the base  load" in shown
    assert max(map(len, drawn)) <= 70
    kept = screen(shown)
    assert not counts_in("\n".join(kept))
    assert not any("the base  load" in line for line in kept)
    assert sum("verified" in line for line in kept) == 3


@pytest.mark.parametrize("flag", slowly(("--quiet", "--verbose"), "--verbose"))
def test_nothing_is_drawn_where_nobody_wants_it(flag: str, warm: list[str]) -> None:
    code, shown = on_a_terminal([flag, *warm], columns=70, rows=24)
    assert code == 1
    assert not counts_in(shown)
    assert "\x1b[2K" not in shown
    assert ("one: proof" in shown) is (flag == "--verbose")
    if flag == "--quiet":
        first, *more = screen(shown)
        assert first.rstrip().endswith("bad: failed at validate")
        assert all(line.startswith("  ") for line in more if line)


def test_bytes_that_come_slowly_are_shown_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = write_adapter(tmp_path / "sql", modules=QUERIES, drop=lambda name: "lora_B" in name)
    write_base_config(tmp_path / "base")
    with Hub() as hub:
        files = {path.name: path.read_bytes() for path in adapter.iterdir()}
        hub.add("org/sql", files)
        hub.fault("cdn", times=-1, delay_s=0.5)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        words = ["warm", "org/sql", "--base", str(tmp_path / "base"), "--device", "cpu"]
        code, shown = on_a_terminal(["--cache-dir", str(tmp_path / "cache"), *words], columns=80, rows=24)
    assert code == 1
    assert any(re.search(r" of \d.* [KM]?i?B .*org/sql", line) for line in drawn_in(shown))
    assert "0 of 1 verified" in shown


def test_validate_counts_adapters_on_a_terminal_and_leaves_its_table_alone(warm: list[str]) -> None:
    adapters, base = warm[3:6], warm[7]
    code, shown = on_a_terminal(["validate", *adapters, "--base", base], columns=200, rows=24)
    assert code == 1
    assert any("2 of 3 validated" in line for line in drawn_in(shown))
    kept = [line.rstrip() for line in screen(shown)]
    assert kept[0].split() == ["adapter", "result", "modules"]
    assert not any("validated" in line for line in kept)
    _, shown = on_a_terminal(["--quiet", "validate", *adapters, "--base", base], columns=200, rows=24)
    assert "validated" not in shown
