"""``fetch --publish``: folders by name that an engine's resolver takes, whole or not at all."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.store.materialize import MARK_FILE
from tests.cli.publishing import BASE, CONFIG, WEIGHTS, Capture, adapter, mark, publish, resolves
from tests.hub_server import Hub
from tests.making import base_config, write_base_config
from tests.schemas import check_schema
from tests.store.keeping import tree


@pytest.fixture(scope="module")
def base_hub() -> Iterator[str]:
    """A Hub that has the base."""
    with Hub() as hub:
        hub.add(BASE, {"config.json": base_config()})
        yield hub.endpoint


@pytest.fixture(autouse=True)
def a_cache_of_its_own(tmp_path: Path, base_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", base_hub)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    adapter("sql")


def test_each_adapter_is_a_folder_by_name_even_when_it_is_alone(capsys: Capture) -> None:
    assert publish("./sql", "--base-name", BASE) == 0
    out, err = capsys.readouterr()
    assert out == f"{Path.cwd()}/served/sql\n"
    assert f"published for {BASE}" in err
    assert tree(Path("served")) == {f"sql/{name}" for name in (CONFIG, WEIGHTS, MARK_FILE)}
    assert resolves(Path("served"), "sql", BASE)
    blob = Path("cache/blobs/sha256")
    digest = hashlib.sha256(Path("sql", WEIGHTS).read_bytes()).hexdigest()
    assert Path("served/sql", WEIGHTS).samefile(blob / digest[:2] / digest)
    assert not Path("served/sql", CONFIG).is_symlink()
    assert Path("served/sql", CONFIG).stat().st_nlink == 1


def test_what_is_right_is_left_alone(capsys: Capture) -> None:
    assert publish("./sql") == 0
    before = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(Path("served").rglob("*"))]
    assert publish("./sql") == 0
    after = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(Path("served").rglob("*"))]
    assert after == before


def test_other_content_under_a_published_name_is_a_warning(capsys: Capture) -> None:
    assert publish("./sql") == 0
    first = mark()["snapshot"]
    assert "warning" not in capsys.readouterr().err
    adapter("sql", seed=2)
    assert publish("./sql", "--format", "json") == 0
    out, err = capsys.readouterr()
    assert "warning: sql replaces other content: an engine may mix both; publish under a new name" in err
    assert json.loads(out)["adapters"][0]["published"]["replaced"] == first
    assert publish("./sql") == 0
    assert "warning" not in capsys.readouterr().err


def test_prune_removes_what_the_manifest_does_not_have_and_nothing_of_others(capsys: Capture) -> None:
    adapter("chat", seed=2)
    head = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {BASE}\nadapters: "
    both = "[{name: sql, source: ./sql}, {name: chat, source: ./chat}]"
    Path("set.yaml").write_text(head + both)
    assert publish("-f", "set.yaml") == 0
    Path("served/mine").mkdir()
    Path("served/mine/notes.txt").write_text("mine")
    Path("set.yaml").write_text(head + "[{name: tune, source: ./chat}, {name: sql, source: ./sql}]")
    assert publish("-f", "set.yaml", "tune") == 0
    assert sorted(path.name for path in Path("served").iterdir()) == ["chat", "mine", "sql", "tune"]
    capsys.readouterr()
    assert publish("-f", "set.yaml", "tune", "--prune", "--format", "json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["pruned"] == ["chat"]
    assert "pruned served/chat: it is not in the manifest" in err
    assert sorted(path.name for path in Path("served").iterdir()) == ["mine", "sql", "tune"]
    assert publish("./sql", "--prune") == 2
    assert "--prune needs a manifest and --publish" in capsys.readouterr().err


def test_a_pickle_that_nobody_judged_is_published_with_a_warning(capsys: Capture) -> None:
    Path("sql", WEIGHTS).rename("sql/adapter_model.bin")
    assert publish("./sql", "--allow-pickle") == 1
    assert "pickled weights" not in capsys.readouterr().err
    assert publish("./sql", "--allow-pickle", "--no-validate") == 0
    said = "warning: sql is published with pickled weights (adapter_model.bin) unchecked: unpickling can run code"
    assert said in capsys.readouterr().err


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])


BAD = {
    "truncated weights": (truncate, "LC10"),
    "a rank that the engine does not take": (lambda folder: adapter(folder.name, r=16), "LC401"),
    "widths of another base": (
        lambda folder: adapter(folder.name, modules={"model.layers.0.mlp.up_proj": (8, 8)}),
        "LC314",
    ),
}


def broken_set(base: str = BASE) -> None:
    """A set of two adapters, sql and chat, for vLLM with ``max_lora_rank`` 8."""
    adapter("chat", seed=2)
    entries = "[{name: sql, source: ./sql}, {name: chat, source: ./chat}]"
    engine = "engine: {name: vllm, max_lora_rank: 8}"
    Path("set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {base}\n{engine}\nadapters: {entries}\n"
    )


@pytest.mark.parametrize("harm", BAD)
def test_what_does_not_pass_is_named_and_left_out_and_an_earlier_version_stays(
    harm: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    spoil, says = BAD[harm]
    noted: list[str] = []
    monkeypatch.setattr("lora_cli.cli.output.write_termination_log", noted.append)
    broken_set()
    assert publish("-f", "set.yaml", "sql") == 0
    before = mark()
    spoil(Path("sql"))
    capsys.readouterr()
    for argv, code in (([], 1), (["--keep-going"], 0), (["--keep-going", "sql"], 1)):
        assert publish("-f", "set.yaml", "--format", "json", *argv) == code
        out, err = capsys.readouterr()
        document = json.loads(out)
        check_schema(document)
        assert (document["exit_code"], document["adapters"][0]["exit_code"]) == (code, 1)
        assert f"error: sql: {says}" in err
        assert noted.pop().startswith(f"sql: {says}")
        assert mark() == before
    assert tree(Path("served/chat")) == {CONFIG, WEIGHTS, MARK_FILE}
    assert publish("-f", "set.yaml", "--no-validate") == 0
    assert mark() != before


def test_the_base_is_that_of_the_lock_and_one_that_cannot_be_read_publishes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken_set()
    assert main(["fetch", "-f", "set.yaml"]) == 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    assert publish("-f", "set.yaml", "--locked") == 0
    Path("set.lock.yaml").unlink()
    assert publish("-f", "set.yaml", "--keep-going") == 4


def test_one_whose_own_base_cannot_be_read_is_published_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert publish("./sql") == 0
    assert "unchecked" not in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", "empty")
    assert publish("./sql") == 0
    assert "warning: sql: base unchecked: " in capsys.readouterr().err


def test_nothing_is_pruned_where_something_failed(capsys: Capture) -> None:
    head = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {BASE}\nadapters: "
    Path("set.yaml").write_text(head + "[{name: sql-v1, source: ./sql}]")
    assert publish("-f", "set.yaml") == 0
    Path("set.yaml").write_text(head + "[{name: sql-v2, source: ./nothing}]")
    assert publish("-f", "set.yaml", "--prune") == 3
    assert "nothing is pruned: not all adapters were fetched and published" in capsys.readouterr().err
    assert Path("served/sql-v1/adapter_model.safetensors").is_file()


def test_prune_leaves_a_published_folder_to_which_somebody_added_a_file_and_says_so(capsys: Capture) -> None:
    assert publish("./sql") == 0
    Path("served/sql/.DS_Store").write_text("mine")
    entry = "{name: other, source: ./sql}"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {BASE}\nadapters: [{entry}]\n")
    capsys.readouterr()
    assert publish("-f", "set.yaml", "--prune", "--format", "json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    check_schema(document)
    assert (document["pruned"], document["not_pruned"]) == ([], [{"name": "sql", "unlisted": [".DS_Store"]}])
    assert "warning: served/sql is not pruned, although it is not in the manifest" in err
    assert "lora-cli did not publish .DS_Store in it; remove these files and prune again" in err
    assert Path("served/sql/.DS_Store").read_text() == "mine"
    Path("served/sql/.DS_Store").unlink()
    assert publish("-f", "set.yaml", "--prune") == 0
    assert not Path("served/sql").exists()


def test_a_dry_run_shows_what_would_be_pruned(capsys: Capture) -> None:
    head = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {BASE}\nadapters: "
    for name in ("sql", "chat", "tune"):
        adapter(name, seed=2)
    Path("set.yaml").write_text(head + "[{name: sql, source: ./sql}, {name: chat, source: ./chat}]")
    assert publish("-f", "set.yaml") == publish("./tune") == 0
    Path("served/chat/mine.txt").write_text("mine")
    before = tree(Path())
    Path("set.yaml").write_text(head + "[{name: new, source: ./sql}]")
    capsys.readouterr()
    argv = ("-f", "set.yaml", "--prune", "--dry-run", "--format", "json")
    assert publish(*argv) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    check_schema(document)
    assert document["pruned"] == ["sql", "tune"]
    assert document["not_pruned"] == [{"name": "chat", "unlisted": ["mine.txt"]}]
    assert "would prune served/sql: it is not in the manifest" in err
    assert tree(Path()) == before
    Path("set.yaml").write_text(head + "[{name: new, source: ./gone}]")
    assert publish(*argv) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["pruned"] == []
    assert "nothing would be pruned" in err


@pytest.mark.parametrize("served", ["acme/base-7B", "acme/base-7b/", "/models/base"])
def test_another_base_than_is_served_is_refused_because_no_resolver_would_take_it(served: str, capsys: Capture) -> None:
    assert publish("./sql", "--base-name", served) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"--base-name {served}" in err
    assert not Path("served").exists()


def test_the_base_of_a_manifest_is_the_one_that_is_served(capsys: Capture) -> None:
    text = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {}\nadapters: [{{name: sql-v2, source: ./sql}}]\n"
    Path("set.yaml").write_text(text.format("acme/other@" + "ab" * 20))
    assert publish("-f", "set.yaml", "--no-validate") == 1
    assert '"acme/other" is served' in capsys.readouterr().err
    assert publish("-f", "set.yaml", "--no-validate", "--base-name", BASE) == 0
    Path("set.yaml").write_text(text.format("./a/folder/that/the/engine/may/call/otherwise"))
    assert publish("-f", "set.yaml", "--no-validate") == 0
    assert resolves(Path("served"), "sql-v2", BASE)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, 'peft_type is "IA3"'),
        ({"peft_type": None}, "peft_type is null"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is null"),
    ],
)
def test_what_no_resolver_takes_is_not_published(config: dict[str, Any], said: str, capsys: Capture) -> None:
    path = Path("sql", CONFIG)
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    assert publish("./sql", "--no-validate") == 1
    assert said in capsys.readouterr().err
    assert not Path("served").exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"a": "\udc80"}'])
def test_a_config_that_cannot_be_read_is_not_published(text: str, capsys: Capture) -> None:
    Path("sql", CONFIG).write_text(text, errors="surrogateescape")
    assert publish("./sql") == 1
    assert CONFIG in capsys.readouterr().err


def foreign(kind: str) -> Path:
    target = Path("served/sql")
    target.parent.mkdir()
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        Path("mine").mkdir()
        target.symlink_to(Path("mine").absolute())
    else:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    if kind == "forged mark":
        (target / MARK_FILE).write_text('{"schema": "lora_cli/published/1", "files": {"other": 1}}')
    return target


@pytest.mark.parametrize("kind", ["file", "link", "folder", "forged mark"])
def test_what_is_not_ours_is_never_replaced(kind: str, capsys: Capture) -> None:
    target = foreign(kind)
    before = tree(Path("served"))
    assert publish("./sql") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "sql exists, with other content: " in err
    assert tree(Path("served")) == before
    assert target.is_symlink() == (kind == "link")


def test_a_file_that_somebody_put_into_what_we_published_stays(capsys: Capture) -> None:
    assert publish("./sql") == 0
    Path("served/sql/notes.txt").write_text("mine")
    adapter("sql", seed=2)
    assert publish("./sql") == 2
    assert Path("served/sql/notes.txt").read_text() == "mine"
    err = capsys.readouterr().err
    assert "sql exists, with other content: notes.txt" in err
    Path("served/sql/notes.txt").unlink()
    assert publish("./sql") == 0
    assert Path("served/sql", WEIGHTS).read_bytes() == Path("sql", WEIGHTS).read_bytes()


@pytest.mark.parametrize("harm", ["config", "weights", "mark"])
def test_what_was_edited_or_lost_is_published_again(harm: str) -> None:
    assert publish("./sql") == 0
    if harm == "config":
        Path("served/sql", CONFIG).write_text("{}")
    elif harm == "weights":
        Path("served/sql", WEIGHTS).unlink()
    else:
        Path("served/sql", MARK_FILE).write_text(json.dumps(mark()))
    assert publish("./sql") == 0
    assert resolves(Path("served"), "sql", BASE)
    assert tree(Path("served/sql")) == {CONFIG, WEIGHTS, MARK_FILE}
    assert Path("served/sql", WEIGHTS).read_bytes() == Path("sql", WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "argv",
    [
        ["./sql", "--publish", ""],
        ["./sql", "--publish", "served", "--to", "out"],
        ["./sql", "./other/sql", "--publish", "served"],
        ["./sql", "--no-validate"],
        ["./sql", "--keep-going"],
    ],
)
def test_what_cannot_be_published_at_all_is_exit_2(argv: list[str], capsys: Capture) -> None:
    adapter("other/sql")
    assert main(["fetch", *argv]) == 2
    assert capsys.readouterr().out == ""
    assert not Path("served").exists()


@pytest.mark.parametrize(
    ("manifest", "why"), [("base: ./base\n", "the manifest's base is a path"), ("", "no base is set")]
)
def test_a_base_that_has_no_name_is_said_not_to_be_checked(manifest: str, why: str, capsys: Capture) -> None:
    write_base_config(Path("base"))
    adapters = "adapters: [{name: sql, source: ./sql}]\n"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\n{manifest}{adapters}")
    assert publish("-f", "set.yaml") == 0
    assert f"the base was not checked for publishing: {why}; set --base-name NAME" in capsys.readouterr().err
    assert publish("-f", "set.yaml", "--base-name", BASE) == 0
    assert publish("-f", "set.yaml", "--quiet") == 0
    assert "not checked" not in capsys.readouterr().err
