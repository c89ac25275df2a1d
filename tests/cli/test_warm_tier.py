"""``warm --tier tmpfs:DIR``: copies in memory by name, weighed first, whole or not at all."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.cli.main import main
from lora_cli.core.snapshot import Blob, Snapshot
from lora_cli.errors import MachineError
from lora_cli.store import Store, tmpfs_tier
from lora_cli.store.published import MARK_FILE
from lora_cli.store.tmpfs_tier import MEMORY, MemoryFolder, file_system, free_bytes
from tests.hub_server import Hub
from tests.making import HIDDEN, Q_PROJ, llama_modules, write_adapter, write_base, write_base_config
from tests.serving.running import Running
from tests.store.keeping import put_snapshot, tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROOT = Path(__file__).parents[2]
QUERIES = llama_modules(["q_proj"])
Captured = pytest.CaptureFixture[str]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("copied_processes"),
    pytest.mark.skipif(file_system(Path("/dev/shm")) != "tmpfs", reason="there is no tmpfs here"),
]


@pytest.fixture
def shm() -> Iterator[Path]:
    """A folder of memory, with nothing in it."""
    with tempfile.TemporaryDirectory(prefix="lora-cli-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base and two adapters in the current folder, and a cache of its own."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_base_config(tmp_path / "base")
    for seed, name in enumerate(("one", "two")):
        write_adapter(tmp_path / name, modules=QUERIES, seed=seed)
    return tmp_path


def warm(capsys: Captured, *argv: object) -> tuple[int, list[dict[str, Any]]]:
    code = main(["warm", *map(str, argv), "--base", "base", "--once", "--device", "cpu", "--format", "json"])
    return code, json.loads(capsys.readouterr().out)["adapters"]


def seen(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Of each file: inode, mode, number of links."""
    found = {name: (folder / name).stat() for name in tree(folder)}
    return {name: (one.st_ino, stat.S_IMODE(one.st_mode), one.st_nlink) for name, one in found.items()}


def test_each_adapter_lies_in_memory_by_name_read_only_and_is_no_link(shm: Path, capsys: Captured) -> None:
    code, reports = warm(capsys, "./one", "./two", "--tier", f"tmpfs:{shm}/adapters", "--residency")
    assert code == 0
    assert [report["copied_to"] for report in reports] == [f"{shm}/adapters/{name}" for name in ("one", "two")]
    assert [list(report["stage_ms"])[-2:] for report in reports] == [["proof", "tier"]] * 2
    copies = seen(shm / "adapters")
    assert copies.keys() == {f"{name}/{file}" for name in ("one", "two") for file in (CONFIG, WEIGHTS, MARK_FILE)}
    assert {value[1:] for value in copies.values()} == {(0o444, 1)}
    for name in ("one", "two"):
        for file in (CONFIG, WEIGHTS):
            assert (shm / "adapters" / name / file).read_bytes() == Path(name, file).read_bytes()
    (first, _) = (report["residency"]["copy"] for report in reports)
    assert first["before_bytes"] == 0
    assert (
        first["after_bytes"] == first["bytes"] == sum(path.stat().st_size for path in (shm / "adapters/one").iterdir())
    )
    # What is right is left alone, and another adapter of that name takes its place.
    write_adapter(Path("one"), modules=QUERIES, seed=9)
    assert warm(capsys, "./one", "./two", "--tier", f"tmpfs:{shm}/adapters")[0] == 0
    assert (shm / "adapters/one" / WEIGHTS).read_bytes() == Path("one", WEIGHTS).read_bytes()
    changed = {name for name, value in seen(shm / "adapters").items() if value != copies[name]}
    assert changed == {f"one/{file}" for file in (CONFIG, WEIGHTS, MARK_FILE)}
    assert {path.name for path in (shm / "adapters").iterdir()} == {"one", "two"}


def test_what_is_refused_is_not_copied_and_the_table_says_where_the_others_are(shm: Path, capsys: Captured) -> None:
    write_adapter(Path("bad"), modules=QUERIES, drop=lambda name: "lora_B" in name)
    Path("set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n"
        "  - {name: sql, source: ./one}\n  - {name: broken, source: ./bad}\n"
    )
    assert main(["warm", "-f", "set.yaml", "--once", "--device", "cpu", "--tier", f"tmpfs:{shm}"]) == 1
    told = capsys.readouterr().out
    assert f"{shm}/sql" in told
    assert f"{shm}/broken" not in told
    assert {path.name for path in shm.iterdir()} == {"sql"}


def test_a_version_whose_proof_fails_leaves_the_copy_that_was_proved(
    shm: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache in the same memory is copied, too."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(shm / "cache"))
    assert warm(capsys, "./one", "--tier", f"tmpfs:{shm}")[0] == 0
    assert {value[1:] for value in seen(shm / "one").values()} == {(0o444, 1)}
    before = (shm / "one" / WEIGHTS).read_bytes()
    huge = {f"base_model.model.{Q_PROJ}.lora_B.weight": np.full((HIDDEN, 4), 1e38, np.float32)}
    write_adapter(Path("one"), modules=QUERIES, tensors=huge)
    code, (report,) = warm(capsys, "./one", "--tier", f"tmpfs:{shm}")
    assert (code, report["stage"], report["copied_to"]) == (1, "proof", "")
    assert (shm / "one" / WEIGHTS).read_bytes() == before


def test_one_that_does_not_fit_and_somebody_elses_folder_fail_alone(
    shm: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(Path("large"), modules=QUERIES, r=64)
    write_adapter(Path("theirs"), modules=QUERIES, seed=2)
    (shm / "theirs").mkdir()
    (shm / "theirs" / "mine").write_text("x")
    real, room = os.statvfs, 64 << 10

    def small(path: Path) -> os.statvfs_result:
        told = list(real(path))
        taken = sum(file.stat().st_blocks * 512 for file in shm.rglob("*")) if Path(path) == shm else 0
        told[0], told[1], told[4] = 1, 1, room - taken
        return os.statvfs_result(told)

    monkeypatch.setattr(os, "statvfs", lambda path: small(path) if Path(path) == shm else real(path))
    code, reports = warm(capsys, "./one", "./large", "./theirs", "./two", "--tier", f"tmpfs:{shm}")
    assert (code, [report["exit_code"] for report in reports]) == (6, [0, 6, 2, 0])
    assert [(report["stage"], report["copied_to"]) for report in reports][1:3] == [("tier", "")] * 2
    error = reports[1]["error"]
    short, needed, free = (int(word) for word in error.split() if word.isdigit())
    assert short == needed - free > 0
    assert "sizeLimit" in reports[1]["hint"]
    assert "--tier" in reports[2]["hint"]
    assert tree(shm / "theirs") == {"mine"}
    assert {path.name for path in shm.iterdir()} == {"one", "theirs", "two"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_tmpfs_of_its_own_size_is_weighed_and_never_filled_by_half_an_adapter(tmp_path: Path) -> None:
    mounted = tmp_path / "memory"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mounted)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this root does not mount")
    try:
        store = Store(tmp_path / "cache")
        small, large = (put_snapshot(store, {WEIGHTS: os.urandom(size)}) for size in (100_000, 200_000))
        folder = MemoryFolder(mounted)
        folder.keep(store, small, "sql")
        free = free_bytes(mounted)
        with pytest.raises(MachineError, match=f"{200_704 + 4096 - (free or 0)} bytes short"):
            folder.keep(store, large, "sql")
        assert (mounted / "sql" / WEIGHTS).stat().st_size == 100_000
        assert tree(mounted) == {f"sql/{WEIGHTS}", f"sql/{MARK_FILE}"}
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_what_is_far_too_large_is_refused_before_a_byte_is_written(shm: Path, tmp_path: Path) -> None:
    huge = Snapshot("0" * 64, tmp_path, {WEIGHTS: Blob("1" * 64, 10**16)})
    with pytest.raises(MachineError, match="bytes short"):
        MemoryFolder(shm).keep(Store(tmp_path / "cache"), huge, "sql")
    assert tree(shm) == set()


def test_a_copy_counts_against_the_containers_own_limit(
    shm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has room, and the kernel would kill whoever fills it."""
    limits = {"memory.max": "1000000", "memory.current": "950000", "memory.stat": "inactive_file 10000"}
    for file, said in limits.items():
        (tmp_path / file).write_text(f"{said}\n")
    monkeypatch.setattr(tmpfs_tier, "CGROUP", tmp_path)
    store = Store(tmp_path / "cache")
    small, large = (put_snapshot(store, {WEIGHTS: os.urandom(size)}) for size in (10_000, 100_000))
    folder = MemoryFolder(shm)
    folder.keep(store, small, "small")
    with pytest.raises(MachineError, match="60000 free"):
        folder.keep(store, large, "large")
    assert tree(shm) == {f"small/{WEIGHTS}", f"small/{MARK_FILE}"}


@pytest.mark.parametrize(
    ("tier", "said"),
    [("disk:/x", "--tier tmpfs:DIRECTORY"), ("tmpfs:", "--tier tmpfs:DIRECTORY"), ("tmpfs:{here}/x", "medium: Memory")],
)
def test_a_place_that_is_not_memory_is_said_before_anything_is_fetched(
    tier: str, said: str, folder: Path, capsys: Captured
) -> None:
    if file_system(folder) in MEMORY:
        pytest.skip("all is memory here")
    words = ["warm", "./one", "--base", "base", "--once", "--tier", tier.format(here=folder)]
    assert main(words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (folder / "cache").exists()
    assert not (folder / "x").exists()


def test_two_of_one_name_are_said_before_anything_is_fetched(shm: Path, folder: Path, capsys: Captured) -> None:
    for words in (["./one", "./other/one"], ["."]):
        assert main(["warm", *words, "--base", "base", "--once", "--tier", f"tmpfs:{shm}"]) == 2
        assert "cannot be the folder of one adapter" in capsys.readouterr().err
    assert not (folder / "cache").exists()


def test_a_server_copies_all_that_it_was_given_before_it_is_ready_and_takes_no_name_that_leads_elsewhere(
    shm: Path, folder: Path
) -> None:
    """However few places it has."""
    write_base(folder / "base")
    write_adapter(folder / "other", modules=QUERIES, seed=2)
    few = ("--max-loras", 1, "--max-cpu-loras", 1, "--root", folder)
    argv = (folder / "one", folder / "other", "--base", folder / "base", *few, "--tier", f"tmpfs:{shm}/served")
    with Running(folder, *argv) as running:
        running.until_ready()
        given = ("one", "other")
        assert tree(shm / "served") == {f"{name}/{file}" for name in given for file in (CONFIG, WEIGHTS, MARK_FILE)}
        load = {"lora_name": "later", "lora_path": str(folder / "two")}
        assert running.ask("POST", "/v1/load_lora_adapter", load).status_code == 200
        assert (shm / "served/later" / WEIGHTS).read_bytes() == Path("two", WEIGHTS).read_bytes()
        told = {one["name"]: one["copied_to"] for one in running.ask("GET", "/v1/adapters").json()["adapters"]}
        assert told == {name: f"{shm}/served/{name}" for name in (*given, "later")}
        for name in ("../out", "a/b"):
            assert running.ask("POST", "/v1/load_lora_adapter", {**load, "lora_name": name}).status_code >= 400
        assert {path.name for path in (shm / "served").iterdir()} == {*given, "later"}
        assert {path.name for path in shm.iterdir()} == {"served"}


KILLED = """
import sys
from pathlib import Path
from lora_cli.store import Store
from lora_cli.store.tmpfs_tier import MemoryFolder
from tests.store.keeping import put_snapshot
store, folder = Store(Path(sys.argv[1])), MemoryFolder(Path(sys.argv[2]))
snapshots = [put_snapshot(store, {"w.safetensors": bytes([seed]) * 3_000_000}) for seed in (1, 2)]
print("begun", flush=True)
while True:
    for snapshot in snapshots:
        folder.keep(store, snapshot, "sql")
"""


def test_a_process_that_is_killed_leaves_one_whole_adapter(shm: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    for attempt in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, cache, str(shm)], stdout=subprocess.PIPE, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(50 + attempt):
                with suppress(FileNotFoundError):  # the folder was swapped between its name and its file's
                    (byte,) = set((shm / "sql" / "w.safetensors").read_bytes()[:: 4096 * 16])
                    assert byte in {1, 2}
            process.kill()
    MemoryFolder(shm).keep(Store(Path(cache)), put_snapshot(Store(Path(cache)), {WEIGHTS: b"x"}), "sql")
    assert tree(shm) == {f"sql/{WEIGHTS}", f"sql/{MARK_FILE}"}


@pytest.mark.parametrize("named", [["-f", "set.yaml"], ["one", "two", "--base", "acme/base"]], ids=["-f", "--base"])
def test_a_copy_that_vllms_resolver_would_answer_404_for_is_a_warning(
    named: list[str], shm: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It accepts an adapter only where its config names the base exactly as ``--model`` does."""
    config = json.loads((folder / "one" / CONFIG).read_text())
    (folder / "one" / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "acme/base"}))
    entries = "[{name: one, source: ./one}, {name: two, source: ./two}]"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: acme/base\nadapters: {entries}\n")
    with Hub() as hub:
        hub.add("acme/base", {path.name: path.read_bytes() for path in (folder / "base").iterdir()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["warm", *named, "--once", "--device", "cpu", "--tier", f"tmpfs:{shm}/adapters"]) == 0
    (warning,) = [one for one in caplog.messages if "returns 404" in one]
    assert warning.startswith("two: its base is ")
