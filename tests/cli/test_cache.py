"""``lora-cli cache``: see it, check it, and make room in it."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.reports.cache import document, human
from lora_cli.reports.terminal import rendered
from lora_cli.store import Store
from lora_cli.store.inventory import StoredSnapshot
from lora_cli.store.records import Record
from tests.making import write_adapter
from tests.store.keeping import put_blob, tree

Captured = pytest.CaptureFixture[str]


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


def said(capsys: Captured, *argv: str, code: int = 0) -> str:
    assert main(["cache", *argv]) == code
    return capsys.readouterr().out


def directory(capsys: Captured, name: str) -> Path:
    return Path(said(capsys, "path", name).strip())


def test_ls_lists_the_last_used_first(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = said(capsys, "ls").splitlines()
    assert [line.split("/")[-1].split()[0] for line in lines[1:3]] == ["sql", "chat"]
    assert lines[3].startswith("2 snapshots")
    document = json.loads(said(capsys, "ls", "--format", "json"))
    assert document["schema"] == "lora_cli/cache/1"
    assert [one["references"][0]["ref"] for one in document["snapshots"]] == [
        f"file://{Path.cwd()}/sql",
        f"file://{Path.cwd()}/chat",
    ]
    assert document["bytes"] == sum(one["bytes"] for one in document["snapshots"])


@pytest.mark.parametrize(("typed", "meant"), [("chatt", "file://{}/chat"), ("org/none", "")])
def test_what_was_meant_is_asked(typed: str, meant: str, capsys: Captured) -> None:
    assert main(["cache", "show", typed]) == 3
    asks = f"did you mean {meant.format(Path.cwd())}? " if meant else ""
    assert f"hint: {asks}see lora-cli cache ls" in capsys.readouterr().err


def test_verify_says_what_is_corrupt(capsys: Captured) -> None:
    (directory(capsys, "./sql") / "extra").write_bytes(b"")
    text = said(capsys, "verify", code=5)
    assert "corrupt snapshot" in text
    assert ", 1 corrupt\n" in text


def test_gc_frees_what_was_not_used_for_long(store: Store, capsys: Captured) -> None:
    before = tree(store.root)
    dry = said(capsys, "gc", "--unused-for", "50s", "--dry-run")
    assert dry.startswith("would remove")
    assert "would free" in dry
    assert tree(store.root) == before
    document = json.loads(said(capsys, "gc", "--unused-for", "50s", "--format", "json"))
    assert [one["kind"] for one in document["removed"]] == ["reference", "snapshot", "blob", "blob"]
    assert document["bytes"] > 0
    assert main(["cache", "path", "./chat"]) == 3
    assert main(["cache", "path", "./sql"]) == 0


def test_gc_tells_of_folders_of_an_earlier_version_and_leaves_them(store: Store, capsys: Captured) -> None:
    (store.root / "leases").mkdir()
    for words in (["gc"], ["show", "./sql"]):
        assert main(["cache", *words]) == 0
        assert "not used any more: leases; remove them" in capsys.readouterr().err
    assert (store.root / "leases").is_dir()


def test_gc_keeps_within_a_size(capsys: Captured) -> None:
    size = sum(path.stat().st_size for path in directory(capsys, "./sql").iterdir())
    assert "/chat" in said(capsys, "gc", "--max-bytes", str(size))
    assert main(["cache", "verify"]) == 0


def test_gc_is_not_limited_by_what_one_adapter_may_have(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "1")
    assert said(capsys, "gc") == "freed 0 B\n"


@pytest.mark.parametrize(
    "argv", [["gc", "--unused-for", "soon"], ["gc", "--unused-for", "30"], ["rm"], ["gc", "--max-bytes", "x"], ["none"]]
)
def test_a_wrong_command_line_is_exit_2(argv: list[str], capsys: Captured) -> None:
    assert main(["cache", *argv]) == 2


@pytest.mark.parametrize("argv", [["gc"], ["gc", "--dry-run"], ["verify"], ["rm", "./sql"]])
def test_what_is_no_cache_is_not_cleaned(argv: list[str], tmp_path: Path, capsys: Captured) -> None:
    thesis = tmp_path / "home" / "tmp" / "mine" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    os.utime(thesis, (1, 1))
    assert main(["--cache-dir", "home", "cache", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "not a cache of lora-cli" in err
    assert thesis.read_text() == "mine"


def test_path_prints_one_directory_for_a_reference_the_usual_files_first(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "sql" / "extra.log").write_text("x")
    usual = directory(capsys, "./sql")
    assert main(["fetch", "./sql", "--include", "*.log"]) == 0
    capsys.readouterr()
    assert directory(capsys, "./sql") == usual


def test_ls_in_a_pipe_cuts_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert [line.split()[1] for line in said(capsys, "ls").splitlines()[1:3]] == [
        f"file://{tmp_path}/{name}" for name in ("sql", "chat")
    ]


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
        report = document(Store(tmp_path), [shown], 0)
        assert expected in rendered(human(report, 100), 100)


def test_gc_names_adapters_and_all_that_goes_where_more_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    kinds = re.compile("^(adapter|reference|snapshot|blob) ", re.MULTILINE)
    assert kinds.findall(said(capsys, "gc", "--unused-for", "50s", "--dry-run")) == ["adapter"]
    found = kinds.findall(said(capsys, "gc", "--unused-for", "50s", "--dry-run", "--verbose"))
    assert found == ["reference", "snapshot", "blob", "blob"]


def test_rm_frees_nothing_that_another_adapter_has(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "sql").iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "copy" / "README.md").write_text("x")
    assert main(["fetch", "./copy"]) == 0
    capsys.readouterr()
    text = said(capsys, "rm", "./sql")
    assert text.endswith("\nfreed 0 B: 1 adapter\n")


def sizes(folder: Path) -> int:
    """Bytes of all files below a folder, each inode once."""
    found = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(found.values())


@pytest.mark.parametrize("words", [["./sql"], ["--all", "--yes"]])
def test_rm_tells_before_what_it_removes_then(words: list[str], store: Store, capsys: Captured) -> None:
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n"
    Path("set.yaml").write_text(head + "  - {name: nightly, source: ./sql}\n")
    assert main(["fetch", "-f", "set.yaml"]) == 0
    capsys.readouterr()
    before, taken = tree(store.root), sizes(store.root)
    dry = json.loads(said(capsys, "rm", *words, "--dry-run", "--format", "json"))
    assert dry["dry_run"]
    assert (tree(store.root), sizes(store.root)) == (before, taken)
    done = json.loads(said(capsys, "rm", *words, "--format", "json"))
    assert done == {**dry, "dry_run": False}
    records = taken - sizes(store.root) - done["bytes"]
    assert 0 < records < 3000  # which say what references mean
    assert main(["cache", "verify"]) == 0


def test_rm_does_not_count_what_hard_links_elsewhere_keep(capsys: Captured, tmp_path: Path) -> None:
    assert main(["fetch", "./sql", "--to", "out"]) == 0
    capsys.readouterr()
    weights = (tmp_path / "out" / "adapter_model.safetensors").stat()
    assert weights.st_nlink == 3
    taken = [json.loads(said(capsys, "rm", name, "--format", "json"))["bytes"] for name in ("./sql", "./chat")]
    assert taken[0] < weights.st_size <= taken[1]


def test_rm_all_asks_on_a_terminal(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours, "wb", buffering=0) as keyboard:
        monkeypatch.setattr("sys.stdin", terminal)
        for answer in (b"n\n", b"\n", b"\x04"):
            keyboard.write(answer)
            before = tree(store.root)
            assert main(["cache", "rm", "--all"]) == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert f"Remove 2 adapters, 5.4 KiB, from {store.root}? [y/n] (n): " in err
            assert tree(store.root) == before
        keyboard.write(b"y\n")
        assert "2 adapters" in said(capsys, "rm", "--all")
    assert tree(store.root) == set()


def test_rm_all_without_a_terminal_needs_yes(store: Store, capsys: Captured) -> None:
    assert main(["cache", "rm", "--all"]) == 2
    assert "hint: add --yes" in capsys.readouterr().err
    assert main(["cache", "path", "./sql"]) == 0
    put_blob(store, b"nothing means it")
    assert main(["cache", "rm", "--all", "-y"]) == 0
    assert tree(store.root) == set()
    assert main(["cache", "rm", "--all", "--yes"]) == 0


def test_an_unfinished_download_is_shown_and_goes_with_rm_all(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom lora_cli.store import Store\n"
        "from lora_cli.store.partials import open_partial\n"
        "os.write(open_partial(Store(Path(sys.argv[1])), 'ab' * 32, 5000).descriptor, bytes(3000))\nos._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(store.root)], check=False).returncode == 9
    assert "; unfinished downloads: 2.9 KiB" in said(capsys, "ls")
    assert main(["cache", "rm", "--all", "-y"]) == 0
    assert tree(store.root) == set()


def test_rm_takes_either_adapters_or_all(capsys: Captured) -> None:
    for words in ([], ["./sql", "--all"]):
        assert main(["cache", "rm", *words]) == 2
        assert "rm takes either adapters or --all" in capsys.readouterr().err
