"""``fetch --publish``: folders by name that an engine's resolver takes, whole or not at all."""

import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.store.materialize import MARK_FILE
from tests.hub_server import Hub
from tests.making import base_config, llama_modules, write_adapter, write_base_config
from tests.schemas import check_schema
from tests.store.keeping import tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "acme/base-7b"
HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def base_hub() -> Iterator[str]:
    """A Hub that has the base."""
    with Hub() as hub:
        hub.add(BASE, {"config.json": base_config()})
        yield hub.endpoint


@pytest.fixture(autouse=True)
def here(a_folder_and_a_cache_of_its_own: None, base_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", base_hub)
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    adapter("sql")


def adapter(folder: str, seed: int = 1, **more: Any) -> Path:
    given = {"modules": llama_modules(("q_proj", "v_proj")), "config": {"base_model_name_or_path": BASE}, **more}
    return write_adapter(Path(folder).absolute(), seed=seed, **given)


def set_of(*names: str, base: str = BASE, source: str = "./sql", engine: str = "") -> None:
    """A manifest; what it names beside ``sql`` is made."""
    for seed, name in enumerate(names, start=2):
        if name != "sql" and not Path(name).exists():
            adapter(name, seed=seed)
    entries = ", ".join(f"{{name: {name}, source: {source if name == 'sql' else f'./{name}'}}}" for name in names)
    Path("set.yaml").write_text(f"{HEAD}{base and f'base: {base}'}\n{engine}\nadapters: [{entries}]\n")


def publish(line: str = "./sql") -> int:
    return main(["fetch", *line.split(), "--publish", "served"])


def published() -> list[str]:
    return sorted(path.name for path in Path("served").iterdir()) if Path("served").exists() else []


def resolves(name: str, base: str = BASE) -> bool:
    """What vLLM's filesystem resolver asks of a folder before it loads it."""
    config = json.loads(Path("served", name, CONFIG).read_text())
    return (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", base)


def mark() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(Path("served/sql", MARK_FILE).read_text())
    return value


def test_each_adapter_is_a_folder_by_name_and_what_is_right_is_left_alone(capsys: Capture) -> None:
    assert publish(f"./sql --base-name {BASE}") == 0
    out, err = capsys.readouterr()
    assert out == f"{Path.cwd()}/served/sql\n"
    assert err.endswith("1 adapter: 1 downloaded; 8.5 KiB\n")
    assert tree(Path("served")) == {f"sql/{name}" for name in (CONFIG, WEIGHTS, MARK_FILE)}
    assert resolves("sql")
    digest = hashlib.sha256(Path("sql", WEIGHTS).read_bytes()).hexdigest()
    assert Path("served/sql", WEIGHTS).samefile(Path("cache/blobs/sha256", digest[:2], digest))
    assert Path("served/sql", CONFIG).stat().st_nlink == 1
    before = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(Path("served").rglob("*"))]
    assert publish() == 0
    assert [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(Path("served").rglob("*"))] == before


def test_other_content_under_a_published_name_is_a_warning(capsys: Capture) -> None:
    assert publish() == 0
    first = mark()["snapshot"]
    assert "replaces" not in capsys.readouterr().err
    adapter("sql", seed=2)
    assert publish("./sql --format json") == 0
    out, err = capsys.readouterr()
    assert "warning: sql replaces other content: an engine may mix both" in err
    assert json.loads(out)["adapters"][0]["published"]["replaced"] == first


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated weights": (truncate, "LC10"),
    "a rank that the engine does not take": (lambda folder: adapter(folder.name, r=16), "LC401"),
    "widths of another base": (
        lambda folder: adapter(folder.name, modules={"model.layers.0.mlp.up_proj": (8, 8)}), "LC314",
    ),
}  # fmt: skip


@pytest.mark.parametrize("harm", BAD)
def test_c2_what_does_not_pass_is_named_and_left_out_and_an_earlier_version_stays(
    harm: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    spoil, says = BAD[harm]
    noted: list[str] = []
    monkeypatch.setattr("lora_cli.cli.output.write_termination_log", noted.append)
    set_of("sql", "chat", engine="engine: {name: vllm, max_lora_rank: 8}")
    assert publish("-f set.yaml sql") == 0
    before = mark()
    spoil(Path("sql"))
    for line, code in (("", 1), ("--keep-going", 0), ("--keep-going sql", 1)):
        noted.clear()
        capsys.readouterr()
        assert publish(f"-f set.yaml --format json {line}") == code
        out, err = capsys.readouterr()
        document = json.loads(out)
        assert (document["exit_code"], document["adapters"][0]["exit_code"]) == (code, 1)
        assert f"error: sql: {says}" in err
        (note,) = noted
        assert note.startswith(f"sql: {says}")
        assert mark() == before
    assert published() == ["chat", "sql"]
    assert publish("-f set.yaml --no-validate") == 0
    assert mark() != before


def test_the_base_is_that_of_the_lock_and_one_that_cannot_be_read_publishes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    set_of("sql", "chat")
    assert main(["fetch", "-f", "set.yaml"]) == 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert publish("-f set.yaml --locked") == 0
    Path("set.lock.yaml").unlink()
    assert publish("-f set.yaml --keep-going") == 4
    capsys.readouterr()
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", "empty")
    assert publish() == 0, "one that only its config names is no reason to refuse it"
    assert "warning: sql: base unchecked: " in capsys.readouterr().err


def test_prune_removes_what_is_not_in_the_manifest_and_nothing_that_is_of_others(capsys: Capture) -> None:
    set_of("sql", "chat", "tune")
    assert publish("-f set.yaml") == 0
    for folder in ("mine", "chat"):
        Path("served", folder).mkdir(exist_ok=True)
        Path("served", folder, "mine.txt").write_text("mine")
    set_of("sql", "new")
    before, kept = tree(Path("served")), [{"name": "chat", "unlisted": ["mine.txt"]}]
    for line in ("--dry-run", ""):
        capsys.readouterr()
        assert publish(f"-f set.yaml sql --prune --format json {line}") == 0
        out, err = capsys.readouterr()
        document = json.loads(out)
        check_schema(document)
        assert (document["pruned"], document["not_pruned"]) == (["tune"], kept)
        assert f"{'would prune' if line else 'pruned'} served/tune: it is not in the manifest" in err
        assert "warning: served/chat is not pruned, although it is not in the manifest" in err
        assert (tree(Path("served")) == before) == bool(line)
    assert published() == ["chat", "mine", "sql"]
    set_of("sql", source="./gone")
    Path("served/chat/mine.txt").unlink()
    for line, told in (("--dry-run", "nothing would be pruned"), ("", "nothing is pruned")):
        assert publish(f"-f set.yaml --prune {line}") == 3
        assert told in capsys.readouterr().err
    assert published() == ["chat", "mine", "sql"]


@pytest.mark.parametrize("served", ["acme/base-7B", "acme/base-7b/", "/models/base"])
def test_another_base_than_is_served_is_refused_because_no_resolver_would_take_it(served: str, capsys: Capture) -> None:
    Path("served").mkdir()
    assert publish(f"./sql --base-name {served}") == 1
    out, err = capsys.readouterr()
    assert (out, f"--base-name {served}" in err, published()) == ("", True, [])


def test_the_base_of_a_manifest_is_the_one_that_is_served(capsys: Capture) -> None:
    set_of("sql", base="acme/other@" + "ab" * 20)
    assert publish("-f set.yaml --no-validate") == 1
    assert '"acme/other" is served' in capsys.readouterr().err
    assert publish(f"-f set.yaml --no-validate --base-name {BASE}") == 0
    write_base_config(Path("base"))
    for base in ("./base", ""):  # which the engine may call otherwise
        set_of("sql", base=base)
        capsys.readouterr()
        assert publish("-f set.yaml") == 0
        assert "the base was not checked for publishing; set --base-name NAME" in capsys.readouterr().err
        assert publish("-f set.yaml --quiet") == publish(f"-f set.yaml --base-name {BASE}") == 0
        assert "not checked" not in capsys.readouterr().err
    assert resolves("sql")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, 'peft_type is "IA3"'),
        ({"peft_type": None}, "peft_type is null"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is null"),
        ([], CONFIG),
    ],
)
def test_what_no_resolver_takes_is_not_published(config: Any, said: str, capsys: Capture) -> None:
    path = Path("sql", CONFIG)
    path.write_text(json.dumps({**json.loads(path.read_text()), **config} if config else config))
    assert publish("./sql --no-validate") == 1
    assert (said in capsys.readouterr().err, published()) == (True, [])


@pytest.mark.parametrize("kind", ["file", "link", "folder", "forged mark"])
def test_what_is_not_ours_is_never_replaced(kind: str, capsys: Capture) -> None:
    target = Path("served/sql")
    target.parent.mkdir()
    Path("mine").mkdir()
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(Path("mine").absolute())
    else:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    if kind == "forged mark":
        (target / MARK_FILE).write_text('{"schema": "lora_cli/published/1", "files": {"other": 1}}')
    before = tree(Path("served"))
    assert publish() == 2
    out, err = capsys.readouterr()
    assert (out, "sql exists, with other content: " in err) == ("", True)
    assert (tree(Path("served")), target.is_symlink()) == (before, kind == "link")


HARM: dict[str, Callable[[], object]] = {
    "config": lambda: Path("served/sql", CONFIG).write_text("{}"),
    "weights": lambda: Path("served/sql", WEIGHTS).unlink(),
    "mark": lambda: Path("served/sql", MARK_FILE).write_text(json.dumps(mark())),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_was_edited_or_lost_is_published_again(harm: str) -> None:
    assert publish() == 0
    HARM[harm]()
    assert publish() == 0
    assert resolves("sql")
    assert tree(Path("served/sql")) == {CONFIG, WEIGHTS, MARK_FILE}
    assert Path("served/sql", WEIGHTS).read_bytes() == Path("sql", WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "line",
    ["./sql --publish=", "./sql --publish served --to out", "./sql ./other/sql --publish served", "./sql --no-validate",
     "./sql --keep-going"],
)  # fmt: skip
def test_what_cannot_be_published_at_all_is_exit_2(line: str, capsys: Capture) -> None:
    adapter("other/sql")
    assert main(["fetch", *line.split()]) == 2
    assert (capsys.readouterr().out, published()) == ("", [])


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the cache."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    assert folder.stat().st_dev != tmp_path.stat().st_dev
    yield folder
    shutil.rmtree(folder)


def test_on_another_file_system_weights_are_copied_once_and_a_full_disk_leaves_them(elsewhere: Path) -> None:
    argv = ["fetch", "./sql", "--publish", str(elsewhere)]
    assert main(argv) == 0
    path = elsewhere / "sql" / WEIGHTS
    before = path.stat().st_ino
    assert main(argv) == 0
    assert (path.stat().st_ino, path.read_bytes()) == (before, Path("sql", WEIGHTS).read_bytes())

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    first = path.read_bytes()
    adapter("sql", seed=2)
    assert main(["fetch", "./sql"]) == 0
    command = [sys.executable, "-m", "lora_cli", *argv]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert (done.returncode, done.stdout, "--publish" in done.stderr) == (6, "", True)
    assert ({entry.name for entry in elsewhere.iterdir()}, path.read_bytes()) == ({"sql"}, first)
    assert main(["fetch", "./sql", "--publish", "/proc/served"]) == 6


def test_a_kill_at_any_moment_leaves_the_one_or_the_other_whole(elsewhere: Path) -> None:
    whole = set()
    for side in "ab":
        folder = adapter(f"{side}/sql", seed=ord(side))
        (folder / "adapter_model.bin").write_bytes(side.encode() * 20_000_000)
        whole.add(((folder / WEIGHTS).read_bytes(), side.encode() * 20_000_000))
    argv = ["fetch", "-q", "--include", "*.bin", "--publish", str(elsewhere)]
    assert main([*argv, "a/sql"]) == main([*argv, "b/sql"]) == 0
    killed = 0
    for number in range(6):
        command = [sys.executable, "-m", "lora_cli", *argv, f"{'ab'[number % 2]}/sql"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while not (half := [path for path in elsewhere.iterdir() if path.name != "sql"]) and process.poll() is None:
                pass
            process.kill()
        killed += bool(half)
        found = elsewhere / "sql"
        assert ((found / WEIGHTS).read_bytes(), (found / "adapter_model.bin").read_bytes()) in whole
    assert killed
    assert main([*argv, "a/sql"]) == main([*argv, "b/sql"]) == 0
    assert {path.name for path in elsewhere.iterdir()} == {"sql"}
