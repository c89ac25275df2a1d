"""A folder of a shared cache that somebody made a link: nothing is moved or removed through it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.core.reference import parse
from lora_cli.errors import MachineError
from lora_cli.settings import Settings
from lora_cli.sources.local import LocalSource
from lora_cli.store import Store
from tests.bringing import bring
from tests.making import write_adapter

DIGEST = "f" * 64


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql")
    (tmp_path / "set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: Documents, source: ./sql}]\n"
    )
    assert main(["fetch", "-f", "set.yaml"]) == 0
    home = tmp_path / "home"
    for name in ("Documents", DIGEST, f"{DIGEST}.0123456789ab"):
        (home / name).mkdir(parents=True)
        (home / name / "letter").write_text("dear")
    return Store(tmp_path / "cache")


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


FOLDERS: dict[str, Callable[[Store], Path]] = {
    "quarantine": lambda store: store.quarantine,
    "snapshots": lambda store: store.snapshots,
    "blobs": lambda store: store.blobs.parent,
    "tmp": lambda store: store.partials,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_nothing_behind_it_is_touched(store: Store, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, home = FOLDERS[name](store), Path("home").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.symlink_to(home)
    before = content(home)
    for words in (["fetch", "-f", "set.yaml"], ["cache", "verify"], ["cache", "gc", "--max-bytes", "0"]):
        assert main(words) == 6
        assert f"{folder}: a folder of the cache is a link" in capsys.readouterr().err
    with pytest.raises(MachineError):  # a server checks it at each fetch
        bring(parse("./sql", is_path=lambda _: True), LocalSource(), store, Settings(store.root))
    assert content(home) == before


def test_a_folder_of_blobs_that_is_a_link_has_none(store: Store) -> None:
    folder, home = store.blobs / "ff", Path("home").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.symlink_to(home)
    before = content(home)
    for words in (["cache", "verify"], ["cache", "gc", "--max-bytes", "0"]):
        assert main(words) == 0
    assert content(home) == before
