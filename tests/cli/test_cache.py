"""``lora-cli cache``: see it, check it, and make room in it."""

import os
import pty
import re
import time
from pathlib import Path

import pytest

from lora_cli.store import Store
from tests.cli.running import Run
from tests.making import write_adapter
from tests.store.keeping import put_blob, tree


@pytest.fixture(autouse=True)
def store(tmp_path: Path, run: Run) -> Store:
    """A cache with two adapters in it, of which ``sql`` was used last."""
    for seed, name in enumerate(("chat", "sql")):
        write_adapter(tmp_path / name, seed=seed, config={"revision": name})
        run(f"fetch ./{name}")
    store = Store(tmp_path / "cache")
    for path in store.refs.iterdir():
        used_s = time.time() - (100 if b"/chat" in path.read_bytes() else 10)
        os.utime(path, (used_s, used_s))
    return store


def sizes(folder: Path) -> int:
    """Bytes of all files below a folder, each inode once."""
    found = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(found.values())


def test_ls_lists_the_last_used_first_and_cuts_no_reference_in_a_pipe(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines, refs = run("cache ls").out.splitlines(), [f"file://{tmp_path}/{name}" for name in ("sql", "chat")]
    assert [line.split()[1] for line in lines[1:3]] == refs
    assert ("just now" in lines[1], "1 minute ago" in lines[2], lines[3][:11]) == (True, True, "2 snapshots")
    document = run("cache ls --format json").document
    assert [one["references"][0]["ref"] for one in document["snapshots"]] == refs
    assert document["bytes"] == sum(one["bytes"] for one in document["snapshots"])


def test_gc_frees_what_was_not_used_for_long(store: Store, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    before, kinds = tree(store.root), re.compile("^(adapter|reference|snapshot|blob) ", re.MULTILINE)
    for words, found in (("", ["adapter"]), ("--verbose", ["reference", "snapshot", "blob", "blob"])):
        dry = run(f"cache gc --unused-for 50s --dry-run {words}").out
        assert ("would free" in dry, kinds.findall(dry)) == (True, found)
    assert tree(store.root) == before
    assert "freed" in run("cache gc --unused-for 50s").out
    run("cache path ./chat", 3)
    run("cache path ./sql")


def test_gc_keeps_within_a_size_or_the_budget_and_not_within_what_one_adapter_may_have(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "1")
    assert run("cache gc").out == "freed 0 B\n"
    assert "/chat" in run(f"cache gc --max-bytes {sizes(Path('sql'))}").out
    monkeypatch.setenv("LORA_CLI_CACHE_BUDGET", "10")
    assert "adapter" not in run("cache gc --max-bytes 1GiB --dry-run").out
    assert re.search(r"freed .*: 1 adapter\n", run("cache gc").out)
    run("cache verify")


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("gc --unused-for 30", 2, "--unused-for"),
        ("gc --max-bytes x", 2, "--max-bytes"),
        ("rm", 2, "rm takes either adapters or --all"),
        ("rm ./sql --all", 2, "rm takes either adapters or --all"),
        ("rm --all", 2, "hint: add --yes"),
        ("show org/none", 3, "hint: see lora-cli cache ls"),
        ("ls --cache-dir sql/adapter_config.json", 6, "the cache is a file"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_goes(line: str, code: int, told: str, store: Store, run: Run) -> None:
    before = tree(store.root)
    assert told in run(f"cache {line}", code).err
    assert tree(store.root) == before


def test_path_prints_one_directory_for_a_reference_or_the_beginning_of_a_digest(run: Run) -> None:
    (line,) = run("cache path ./sql").out.splitlines()
    assert Path(line, "adapter_config.json").is_file()
    assert run(f"cache path {Path(line).name[:12]}").out == f"{line}\n"


@pytest.mark.parametrize("words", ["./sql", "--all --yes"])
def test_rm_tells_before_what_it_removes_then(words: str, store: Store, run: Run) -> None:
    before, taken = tree(store.root), sizes(store.root)
    dry = run(f"cache rm {words} --dry-run").out
    assert (tree(store.root), sizes(store.root)) == (before, taken)
    assert run(f"cache rm {words}").out == dry.replace("would free", "freed")
    assert sizes(store.root) < taken
    run("cache verify")


def test_rm_all_asks_on_a_terminal(store: Store, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    put_blob(store, b"nothing means it")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours, "wb", buffering=0) as keyboard:
        monkeypatch.setattr("sys.stdin", terminal)
        for answer, code in ((b"n\n", 1), (b"\n", 1), (b"\x04", 1), (b"y\n", 0)):
            before = tree(store.root)
            keyboard.write(answer)
            assert f"Remove 2 adapters, 5.4 KiB, from {store.root}? [y/N]:" in run("cache rm --all", code).err
            assert tree(store.root) == (before if code else set())
