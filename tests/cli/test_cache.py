"""``lora-cli cache``: see it, check it, and make room in it."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.reports.cache import human
from lora_cli.reports.terminal import rendered
from lora_cli.store import Store
from lora_cli.store.inventory import StoredSnapshot
from lora_cli.store.records import Record
from tests.making import write_adapter
from tests.store.keeping import put_blob, tree

Captured = pytest.CaptureFixture[str]
Said = Callable[..., str]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Store:
    """A cache with two adapters in it, of which ``sql`` was used last."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("chat", "sql")):
        write_adapter(tmp_path / name, seed=seed, config={"revision": name})
        assert main(["fetch", f"./{name}"]) == 0
    capsys.readouterr()
    store = Store(tmp_path / "cache")
    for path in store.refs.iterdir():
        used_s = time.time() - (100 if b"/chat" in path.read_bytes() else 10)
        os.utime(path, (used_s, used_s))
    return store


@pytest.fixture
def said(capsys: Captured) -> Said:
    def said(line: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["cache", *line.split()]) == code
        return capsys.readouterr().out

    return said


def sizes(folder: Path) -> int:
    """Bytes of all files below a folder, each inode once."""
    found = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(found.values())


def test_ls_lists_the_last_used_first_and_cuts_no_reference_in_a_pipe(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines, refs = said("ls").splitlines(), [f"file://{tmp_path}/{name}" for name in ("sql", "chat")]
    assert [line.split()[1] for line in lines[1:3]] == refs
    assert lines[3].startswith("2 snapshots")
    document = json.loads(said("ls --format json"))
    assert document["schema"] == "lora_cli/cache/1"
    assert [one["references"][0]["ref"] for one in document["snapshots"]] == refs
    assert document["bytes"] == sum(one["bytes"] for one in document["snapshots"])


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(10, "just now"), (100, "1 minute ago"), (7300, "2 hours ago"), (86400 * 3, "3 days ago"), (0, "1 year ago")],
)
def test_ls_tells_how_long_ago_each_was_used(
    seconds: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record("hf://org/sql", "", "", "ab" * 32, {}, used_s=1e9)
    item = StoredSnapshot("ab" * 32, tmp_path, {}, (record,))
    monkeypatch.setattr("time.time", lambda: 1e9 + (seconds or 86400 * 400))
    for shown, expected in ((item, f" {told}\n"), (replace(item, records=()), " unreferenced ")):
        assert expected in rendered(human(Store(tmp_path), [shown], 0), 100)


def test_what_is_corrupt_ends_with_5(said: Said) -> None:
    (Path(said("path ./sql").strip()) / "extra").write_bytes(b"")
    text = said("verify", code=5)
    assert "corrupt snapshot" in text
    assert ": 1 corrupt\n" in text
    said("verify --repair")
    assert "no corruption" in said("verify")


def test_gc_frees_what_was_not_used_for_long(store: Store, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    before, kinds = tree(store.root), re.compile("^(adapter|reference|snapshot|blob) ", re.MULTILINE)
    for words, found in (("", ["adapter"]), ("--verbose", ["reference", "snapshot", "blob", "blob"])):
        dry = said(f"gc --unused-for 50s --dry-run {words}")
        assert ("would free" in dry, kinds.findall(dry)) == (True, found)
    assert tree(store.root) == before
    assert "freed" in said("gc --unused-for 50s")
    said("path ./chat", code=3)
    said("path ./sql")


def test_gc_keeps_within_a_size_or_the_budget_and_not_within_what_one_adapter_may_have(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "1")
    assert said("gc") == "freed 0 B\n"
    assert "/chat" in said(f"gc --max-bytes {sizes(Path('sql'))}")
    monkeypatch.setenv("LORA_CLI_CACHE_BUDGET", "10")
    assert "adapter" not in said("gc --max-bytes 1GiB --dry-run")
    assert re.search(r"freed .*: 1 adapter\n", said("gc"))
    said("verify")


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("gc --unused-for soon", 2, "'--unused-for': 'soon' is not a duration: write 30s"),
        ("gc --unused-for 30", 2, "'--unused-for': it has no unit: write 30d for days"),
        ("gc --max-bytes x", 2, "'--max-bytes': "),
        ("rm", 2, "rm takes either adapters or --all"),
        ("rm ./sql --all", 2, "rm takes either adapters or --all"),
        ("rm --all", 2, "hint: add --yes"),
        ("show org/none", 3, "hint: see lora-cli cache ls"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_goes(
    line: str, code: int, told: str, store: Store, capsys: Captured
) -> None:
    before = tree(store.root)
    assert main(["cache", *line.split()]) == code
    assert told in capsys.readouterr().err
    assert tree(store.root) == before


@pytest.mark.parametrize("line", ["gc", "gc --dry-run", "verify", "rm ./sql"])
def test_what_is_no_cache_is_not_cleaned(line: str, tmp_path: Path, capsys: Captured) -> None:
    thesis = tmp_path / "home" / "tmp" / "mine" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    os.utime(thesis, (1, 1))
    assert main(["--cache-dir", "home", "cache", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, "not a cache of lora-cli" in err, thesis.read_text()) == ("", True, "mine")


def test_path_prints_one_directory_for_a_reference_the_last_used_one(tmp_path: Path, said: Said) -> None:
    (tmp_path / "sql" / "extra.log").write_text("x")
    usual = said("path ./sql")
    assert main(["fetch", "./sql", "--include", "*.log"]) == 0
    assert (Path(said("path ./sql").strip()) / "extra.log").is_file()
    assert said(f"path {Path(usual.strip()).name[:12]}") == usual


@pytest.mark.parametrize("words", ["./sql", "--all --yes"])
def test_rm_tells_before_what_it_removes_then(words: str, store: Store, said: Said) -> None:
    before, taken = tree(store.root), sizes(store.root)
    dry = said(f"rm {words} --dry-run")
    assert (tree(store.root), sizes(store.root)) == (before, taken)
    assert said(f"rm {words}") == dry.replace("would free", "freed")
    assert sizes(store.root) < taken
    said("verify")


def test_rm_frees_nothing_that_another_adapter_or_a_hard_link_has(tmp_path: Path, said: Said) -> None:
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "sql").iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "copy" / "README.md").write_text("x")
    assert main(["fetch", "./copy"]) == main(["fetch", "./chat", "--to", "out"]) == 0
    assert said("rm ./sql").endswith("\nfreed 0 B: 1 adapter\n")
    assert (tmp_path / "out/adapter_model.safetensors").stat().st_nlink == 3
    assert "KiB" not in said("rm ./chat").splitlines()[-1]
    assert " KiB: 1 adapter" in said("rm ./copy")


def test_rm_all_asks_on_a_terminal(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    put_blob(store, b"nothing means it")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours, "wb", buffering=0) as keyboard:
        monkeypatch.setattr("sys.stdin", terminal)
        for answer, code in ((b"n\n", 1), (b"\n", 1), (b"\x04", 1), (b"y\n", 0)):
            before = tree(store.root)
            keyboard.write(answer)
            assert main(["cache", "rm", "--all"]) == code
            assert f"Remove 2 adapters, 5.4 KiB, from {store.root}? [y/N]:" in capsys.readouterr().err
            assert tree(store.root) == (before if code else set())


def test_an_unfinished_download_is_shown_and_goes_with_rm_all(store: Store, said: Said) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom lora_cli.store import Store\n"
        "from lora_cli.store.partials import open_partial\n"
        "os.write(open_partial(Store(Path(sys.argv[1])), 'ab' * 32, 5000).descriptor, bytes(3000))\nos._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(store.root)], check=False).returncode == 9
    assert "; unfinished downloads: 2.9 KiB" in said("ls")
    said("rm --all -y")
    assert tree(store.root) == set()
    said("rm --all --yes")
