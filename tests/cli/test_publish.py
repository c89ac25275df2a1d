"""``fetch --publish``: folders by name that an engine's resolver takes, whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lora_cli.store.materialize import MARK_FILE
from tests.cli.running import Run
from tests.cli.test_startup import modules_after
from tests.hub_server import Hub
from tests.making import base_config, llama_modules, write_adapter, write_base_config
from tests.schemas import check_schema
from tests.store.keeping import tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "acme/base-7b"
SET = "fetch -f set.yaml --publish served"
ONE = "fetch ./sql --publish served"


@pytest.fixture(scope="module")
def base_hub() -> Iterator[str]:
    """A Hub that has the base."""
    with Hub() as hub:
        hub.add(BASE, {"config.json": base_config()})
        yield hub.endpoint


@pytest.fixture(autouse=True)
def here(base_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", base_hub)
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    adapter("sql")


def adapter(folder: str, seed: int = 1, **more: Any) -> Path:
    given = {"modules": llama_modules(("q_proj", "v_proj")), "config": {"base_model_name_or_path": BASE}, **more}
    return write_adapter(Path(folder), seed=seed, **given)


def set_of(*names: str, base: str = BASE, source: str = "./sql", engine: str = "") -> None:
    """A manifest; what it names beside ``sql`` is made."""
    for seed, name in enumerate(names, start=2):
        if name != "sql" and not Path(name).exists():
            adapter(name, seed=seed)
    entries = ", ".join(f"{{name: {name}, source: {source if name == 'sql' else f'./{name}'}}}" for name in names)
    head = f"apiVersion: lora-cli/v1\nkind: AdapterSet\n{base and f'base: {base}'}\n{engine}\n"
    Path("set.yaml").write_text(f"{head}adapters: [{entries}]\n")


def published() -> list[str]:
    return sorted(path.name for path in Path("served").iterdir()) if Path("served").exists() else []


def resolves(name: str) -> bool:
    """What vLLM's filesystem resolver asks of a folder before it loads it."""
    config = json.loads(Path("served", name, CONFIG).read_text())
    return (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", BASE)


def mark() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(Path("served/sql", MARK_FILE).read_text())
    return value


def test_each_adapter_is_a_folder_by_name_and_what_is_right_is_left_alone(run: Run) -> None:
    out, err = run(f"{ONE} --base-name {BASE}")
    assert out == f"{Path.cwd()}/served/sql\n"
    assert err.endswith("1 adapter: 1 downloaded; 8.5 KiB\n")
    assert tree(Path("served")) == {f"sql/{name}" for name in (CONFIG, WEIGHTS, MARK_FILE)}
    assert resolves("sql")
    digest = hashlib.sha256(Path("sql", WEIGHTS).read_bytes()).hexdigest()
    assert Path("served/sql", WEIGHTS).samefile(Path("cache/blobs/sha256", digest[:2], digest))
    assert Path("served/sql", CONFIG).stat().st_nlink == 1
    before = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(Path("served").rglob("*"))]
    run(ONE)
    assert [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(Path("served").rglob("*"))] == before


def test_files_are_copied_to_memory_without_torch() -> None:
    with TemporaryDirectory(dir="/dev/shm") as memory:
        line = f"fetch ./sql --publish {memory}"
        assert "torch" not in modules_after(f"from lora_cli.cli.main import main\nassert main({line.split()!r}) == 0")
        assert Path(memory, "sql", WEIGHTS).read_bytes() == Path("sql", WEIGHTS).read_bytes()


def test_other_content_under_a_published_name_and_what_validation_warns_of_are_warnings(run: Run) -> None:
    assert "warning: sql" not in run(ONE).err
    first = mark()["snapshot"]
    adapter("sql", lora_alpha=1e12)
    said = run(f"{ONE} --format json")
    assert "warning: sql replaces other content: an engine may mix both" in said.err
    (one,) = said.document["adapters"]
    assert one["published"]["replaced"] == first
    assert [word[:18] for word in one["warnings"]] == ["LC504 huge-update:"]
    assert f"warning: sql: {one['warnings'][0]}" in said.err


def truncate() -> None:
    Path("sql", WEIGHTS).write_bytes(Path("sql", WEIGHTS).read_bytes()[:-100])


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "truncated weights": (truncate, "LC10"),
    "a rank that the engine does not take": (lambda: adapter("sql", r=16), "LC401"),
}


@pytest.mark.parametrize("harm", BAD)
def test_c2_what_does_not_pass_is_named_and_left_out_and_an_earlier_version_stays(harm: str, run: Run) -> None:
    spoil, says = BAD[harm]
    set_of("sql", "chat", engine="engine: {name: vllm, max_lora_rank: 8}")
    run(f"{SET} sql")
    before = mark()
    spoil()
    for words, code in (("", 1), ("--keep-going", 0), ("--keep-going sql", 1)):
        said = run(f"{SET} --format json {words}", code)
        assert (said.document["exit_code"], said.document["adapters"][0]["exit_code"]) == (code, 1)
        assert f"error: sql: {says}" in said.err
        assert mark() == before
    assert published() == ["chat", "sql"]
    run(f"{SET} --no-validate")
    assert mark() != before


def test_prune_removes_what_is_not_in_the_manifest_and_nothing_that_is_of_others(run: Run) -> None:
    set_of("sql", "chat", "tune")
    run(SET)
    for folder in ("mine", "chat"):
        Path("served", folder).mkdir(exist_ok=True)
        Path("served", folder, "mine.txt").write_text("mine")
    set_of("sql", "new")
    before, kept = tree(Path("served")), [{"name": "chat", "unlisted": ["mine.txt"]}]
    for word in ("--dry-run", ""):
        said = run(f"{SET} sql --prune --format json {word}")
        check_schema(said.document)
        assert (said.document["pruned"], said.document["not_pruned"]) == (["tune"], kept)
        assert f"{'would prune' if word else 'pruned'} served/tune: it is not in the manifest" in said.err
        assert "warning: served/chat is not pruned: lora-cli did not publish mine.txt in it" in said.err
        assert (tree(Path("served")) == before) == bool(word)
    assert published() == ["chat", "mine", "sql"]


def test_prune_unpublishes_what_a_policy_refuses_and_keeps_what_failed_otherwise(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    monkeypatch.setattr("lora_cli.cli.output.write_termination_log", left.append)
    set_of("sql", "chat", "old", "new")
    run(SET)
    set_of("sql", "chat", "new", source="./gone")
    Path("policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\ndeny_sources: [./chat]\n")
    keep = "stays published"
    for words, stays in (("", ["chat", "new", "old", "sql"]), ("--prune --dry-run", []), ("--prune", ["new", "sql"])):
        said = run(f"{SET} --keep-going --policy policy.yaml {words}", 3 if "dry" in words else 0).err
        assert ("chat: it is refused" in said) == ("--prune" in words)
        assert stays in ([], published())
        if stays:
            kept = {line.partition(":")[0] for line in said.splitlines() if keep in line}
            assert ("sql" in kept, "chat" in kept) == (True, "chat" in stays)
            assert all(line in left[-1] for line in said.splitlines() if keep in line)


def test_what_is_refused_as_it_was_published_stays_until_it_is_pruned(run: Run) -> None:
    set_of("sql", "chat")
    run(SET)
    for words, stays in (("", ["chat", "sql"]), ("--prune", [])):
        told = run(f"{SET} --base-name acme/other {words}", 1).err
        assert (published(), "sql: it stays published; --prune removes it" in told) == (stays, bool(stays))


def test_what_is_not_locked_keeps_no_pod_from_starting(run: Run) -> None:
    set_of("sql", "chat")
    run("fetch -f set.yaml")
    set_of("sql", "chat", "old")
    assert "old is not locked" in run(f"{SET} --locked", 1).err
    assert not published()
    assert "old is not locked" in run(f"{SET} --locked --keep-going").err
    assert published() == ["chat", "sql"]


def test_the_base_of_a_manifest_is_the_one_that_is_served(run: Run) -> None:
    set_of("sql", base="acme/other@" + "ab" * 20)
    assert '"acme/other" is served' in run(f"{SET} --no-validate", 1).err
    run(f"{SET} --no-validate --base-name {BASE}")
    write_base_config(Path("base"))
    set_of("sql", base="./base")  # which the engine may call otherwise
    assert "the base's name was not compared; set --base-name NAME" in run(SET).err
    for words in ("--quiet", f"--base-name {BASE}"):
        assert "not checked" not in run(f"{SET} {words}").err


@pytest.mark.parametrize(
    ("config", "base", "said"),
    [
        ({"peft_type": "IA3"}, BASE, 'peft_type is "IA3"'),
        ({"base_model_name_or_path": None}, BASE, "base_model_name_or_path is null"),
        ({}, "acme/base-7B", "--base-name acme/base-7B"),
        ({}, "/models/base", "--base-name /models/base"),
    ],
)
def test_what_no_resolver_takes_is_not_published(config: Any, base: str, said: str, run: Run) -> None:
    path = Path("sql", CONFIG)
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    out, err = run(f"{ONE} --base-name {base} --no-validate", 1)
    assert (out, said in err, published()) == ("", True, [])


@pytest.mark.parametrize("kind", ["file", "link", "folder", "forged mark"])
def test_what_is_not_ours_is_never_replaced(kind: str, run: Run) -> None:
    target = Path("served/sql")
    target.parent.mkdir()
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(Path("sql").absolute())
    else:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    if kind == "forged mark":
        (target / MARK_FILE).write_text('{"schema": "lora_cli/published/1", "files": {"other": 1}}')
    before = tree(Path("served"))
    out, err = run(ONE, 2)
    assert (out, "sql exists, with other content: " in err) == ("", True)
    assert (tree(Path("served")), target.is_symlink()) == (before, kind == "link")


def test_what_was_edited_or_lost_is_published_again(run: Run) -> None:
    run(ONE)
    harms: tuple[Callable[[], object], ...] = (
        lambda: Path("served/sql", CONFIG).write_text("{}"),
        lambda: Path("served/sql", WEIGHTS).unlink(),
        lambda: Path("served/sql", MARK_FILE).write_text(json.dumps(mark())),
    )
    for harm in harms:
        harm()
        run(ONE)
        assert (resolves("sql"), tree(Path("served/sql"))) == (True, {CONFIG, WEIGHTS, MARK_FILE})
        assert Path("served/sql", WEIGHTS).read_bytes() == Path("sql", WEIGHTS).read_bytes()
