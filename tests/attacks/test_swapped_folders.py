"""Whoever may write below a --root puts a link in the place of a folder that a server has seen before."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.refs.reference import AdapterRef
from lora_cli.sources.local import LocalSource
from tests.making import llama_modules, write_adapter
from tests.runtime.families import save_model
from tests.serving.running import Running, error_of
from tests.slow import slowly

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])
OUTSIDE = "not below a folder"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swapped")
    save_model(folder / "base", "llama")
    write_adapter(folder / "elsewhere" / "secret", modules=QUERIES, seed=1)
    write_adapter(folder / "own", modules=QUERIES, seed=2)
    (folder / "root").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    """Knows ``own``, which is not below its root, and has one slot."""
    limits = ["--max-loras", 1, "--max-cpu-loras", 1, "--forward", "model", "--root", folder / "root"]
    with Running(folder, folder / "own", "--base", folder / "base", *limits) as running:
        yield running.until_ready()


def broken(folder: Path) -> Path:
    return write_adapter(folder, modules=QUERIES, drop=lambda name: "lora_B" in name)


def swap(folder: Path, target: Path) -> None:
    """A link to ``target`` in the place of the folder."""
    shutil.rmtree(folder)
    folder.symlink_to(target)


def tried_again(server: Running, ask: Callable[[], tuple[int, str]], name: str) -> tuple[int, str]:
    """What is answered once a failure is not only remembered any more."""
    time.sleep(server.adapter(name)["retry_in_s"] + 0.05)
    return ask()


ASKS: Mapping[str, Callable[[Running, str], Any]] = {
    "probed": lambda server, name: server.probe(name),
    "asked": lambda server, name: server.post("/v1/completions", model=name, prompt=[1, 2]),
    "loaded": lambda server, name: server.load(name, name),
    "loaded in its place": lambda server, name: server.load(name, name, load_inplace=True),
}


@pytest.mark.parametrize("asked", slowly(ASKS, "asked", "loaded in its place"))
@pytest.mark.parametrize("target", slowly(("elsewhere/secret", "own"), "elsewhere/secret"))
def test_what_failed_once_is_not_read_through_a_link_later(
    server: Running, folder: Path, target: str, asked: str
) -> None:
    """``own`` lies in the server's cache already, and is not handed out under another name either."""
    name = f"broken-{Path(target).name}-{asked.replace(' ', '-')}"
    place = broken(folder / "root" / name)
    assert error_of(server.load(name, name))[0] == 422
    swap(place, folder / target)
    # A name that never worked is forgotten: it is nobody's until somebody loads it, which reads the link anew.
    status, said = error_of(ASKS[asked](server, name))
    assert (status, OUTSIDE in said) == ((422, True) if asked.startswith("loaded") else (404, False)), said
    assert name not in {one["name"] for one in server.ask("GET", "/v1/adapters").json()["adapters"]}


def test_what_is_brought_again_is_checked_again(server: Running, folder: Path) -> None:
    place = write_adapter(folder / "root" / "good", modules=QUERIES, seed=3)
    assert server.load("good", "good").status_code == 200
    digest = server.adapter("good")["digest"]
    swap(place, folder / "elsewhere" / "secret")
    assert server.probe("good").status_code == 200
    assert server.adapter("good")["digest"] == digest, "what was judged is served"
    assert server.probe("own").status_code == 200, "which takes its slot and its place in memory"
    assert main(["--cache-dir", str(folder / "cache"), "cache", "rm", f"file://{place}"]) == 0
    status, said = error_of(server.probe("good"))
    assert (status, OUTSIDE in said) == (422, True), said
    place.unlink()
    write_adapter(place, modules=QUERIES, seed=3)
    assert tried_again(server, lambda: (server.probe("good").status_code, ""), "good") == (200, "")


def test_a_folder_inside_that_is_a_link_is_no_way_out(server: Running, folder: Path) -> None:
    place = folder / "root" / "inside"
    place.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (place / name).symlink_to(folder / "elsewhere" / "secret" / name)
    status, said = error_of(server.load("inside", "inside"))
    assert (status, "outside" in said) == (422, True), said


def test_a_root_that_is_a_link_may_be_led_elsewhere_by_whoever_made_it(tmp_path: Path) -> None:
    """As tools do that replace a folder in one step."""
    for version in ("one", "two"):
        write_adapter(tmp_path / version / "x", seed=1)
    root = tmp_path / "current"
    source, ref = LocalSource(roots=(root,)), AdapterRef("file", str(root / "x"))
    for version in ("one", "two"):
        root.unlink(missing_ok=True)
        root.symlink_to(tmp_path / version)
        assert len(source.resolve(ref).files) == 2


def test_folders_that_look_like_the_cache_of_the_hub_lead_nowhere_else(tmp_path: Path) -> None:
    """There, links lead from a snapshot to blobs beside it."""
    for blobs in (tmp_path / "blobs", tmp_path / "root" / "models--x" / "blobs"):
        blobs.mkdir(parents=True)
        (blobs / "blob").write_bytes(b"x" * 100)
    for place in ("snapshots/commit", "models--x/snapshots/commit"):
        (tmp_path / "root" / place).mkdir(parents=True)
    outside, inside = (tmp_path / "root" / place for place in ("snapshots/commit", "models--x/snapshots/commit"))
    (outside / "adapter_config.json").symlink_to("../../../blobs/blob")
    (inside / "adapter_config.json").symlink_to("../../blobs/blob")
    source = LocalSource(roots=(tmp_path / "root",))
    assert [file.defect for file in source.resolve(AdapterRef("file", str(inside))).files] == [""]
    (file,) = source.resolve(AdapterRef("file", str(outside))).files
    assert "outside its folder" in file.defect
