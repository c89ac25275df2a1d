"""A folder of this machine that is locked: everybody who works from the manifest compares it with its lock."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.cli.locked_sets import CONFIG, WEIGHTS, Capture, fetch, forget_the_cache, locked, set_of
from tests.making import llama_modules, write_adapter, write_base_config


def retrain(folder: str, *, seed: int = 0, r: int = 4) -> None:
    write_adapter(Path(folder), modules=llama_modules(), seed=seed, r=r)


RETRAINED, LONGER, WITH_MORE_WEIGHTS = "retrained", "longer", "more weights"
CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    RETRAINED: (
        lambda: retrain("mine", seed=2),
        f"{WEIGHTS} has different bytes from the locked ones",
    ),
    LONGER: (lambda: retrain("mine", r=8), "bytes now, but is locked with"),
    WITH_MORE_WEIGHTS: (
        lambda: shutil.copy(Path("mine", WEIGHTS), Path("mine", "adapter_model-00001-of-00001.safetensors")),
        "adapter_model-00001-of-00001.safetensors exists now but is not locked",
    ),
    "gone": (Path("mine", CONFIG).unlink, f"{CONFIG} is locked but no longer exists"),
}
COMMANDS = {
    "fetch": ["fetch", "--locked"],
    "fetch --publish": ["fetch", "--locked", "--publish", "out"],
    "validate": ["validate", "--base", "base"],
    "inspect": ["inspect", "--base", "base"],
    "warm": ["warm", "--once", "--base", "base", "--device", "cpu"],
}


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set in the current folder with one adapter beside it, fetched and locked."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_base_config(tmp_path / "base")
    retrain("mine", seed=1)
    set_of("mine=./mine")
    assert fetch() == 0


def run(name: str) -> int:
    verb, *words = COMMANDS[name]
    return main([verb, "-f", "set.yaml", *words])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cache", ["warm", "empty"])
def test_a_gate_is_red_whether_or_not_the_cache_has_what_is_locked(
    change: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    spoil, says = CHANGES[change]
    spoil()
    if cache == "empty":
        forget_the_cache(monkeypatch, tmp_path)
    for name in ("fetch", "validate"):
        capsys.readouterr()
        assert run(name) == 1
        told = " ".join("".join(capsys.readouterr()).split())
        assert says in told
        assert "lora-cli fetch -f set.yaml --upgrade mine" in told


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_a_folder_that_is_not_what_is_locked_and_takes_it_when_it_is(
    name: str, capsys: Capture
) -> None:
    """The same bytes at another time are what is locked."""
    for path in Path("mine").iterdir():
        os.utime(path, (1, 1))
    Path("mine", "notes.txt").write_text("no part of the adapter")
    assert run(name) == 0
    CHANGES[RETRAINED][0]()
    capsys.readouterr()
    assert run(name) == 1
    assert "has different bytes from the locked ones" in " ".join("".join(capsys.readouterr()).split())
    assert fetch("--upgrade", "mine") == 0
    assert name == "warm" or run(name) == 0


def test_what_is_published_is_what_the_folder_has(capsys: Capture) -> None:
    first = Path("mine", WEIGHTS).read_bytes()
    assert run("fetch --publish") == 0
    assert Path("out/mine", WEIGHTS).read_bytes() == first
    CHANGES[RETRAINED][0]()
    assert run("fetch --publish") == 1
    assert Path("out/mine", WEIGHTS).read_bytes() == first
    assert fetch() == 0
    assert run("fetch --publish") == 0
    assert Path("out/mine", WEIGHTS).read_bytes() == Path("mine", WEIGHTS).read_bytes() != first


@pytest.mark.slow
def test_of_a_folder_that_is_gone_the_cache_has_what_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("mine")
    assert [run("fetch"), run("warm")] == [0, 0]
    forget_the_cache(monkeypatch, tmp_path)
    assert run("fetch") == 3


@pytest.mark.parametrize("parent", ["is there", "is gone, too"])
def test_a_locked_folder_that_is_gone_is_read_from_the_cache_and_never_looked_for_on_the_hub(
    parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written ``adapters/sql``, it looks like a repository, and somebody may have one of that name."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    retrain("adapters/sql", seed=3)
    set_of("mine=./mine", "sql=adapters/sql")
    assert fetch() == 0
    assert locked("sql").revision == ""
    shutil.rmtree("adapters" if parent == "is gone, too" else "adapters/sql")
    capsys.readouterr()

    assert fetch("--locked") == 0
    assert main(["validate", "-f", "set.yaml", "--base", "base"]) == 3
    assert f"thereisnofolder{tmp_path / 'adapters/sql'}" in "".join(capsys.readouterr().out.split())
    assert main(["validate", "-f", "set.yaml", "--base", "base", "mine"]) == 0
    assert fetch("--upgrade", "sql") == 3
    assert "there is no folder" in capsys.readouterr().err
    forget_the_cache(monkeypatch, tmp_path)
    assert fetch("--locked") == 3
    assert "there is no folder" in capsys.readouterr().err


def test_a_folder_that_is_misspelt_next_to_others_is_not_looked_for_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    retrain("adapters/sql")
    assert main(["validate", "adapters/sgl", "--base", "none"]) == 3
    assert main(["fetch", "adapters/sgl"]) == 3
    set_of("sql=adapters/sgl")
    assert fetch() == 3
    said = "".join(capsys.readouterr())
    assert said.count("there is no folder") == 3
    assert "127.0.0.1" not in said


def test_paths_of_a_home_folder_and_of_no_folder_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    set_of("mine=~/mine")
    assert fetch() == 0
    assert main(["validate", "~/mine", "--base", "base"]) == 0
    assert main(["validate", "~nobody-of-that-name/x", "--base", "none"]) == 3
    assert main(["validate", f"{'a' * 300}/b", "./mine", "--base", "none"]) in {2, 3, 4}
    config = Path("mine", CONFIG)
    config.write_text(
        config.read_text().replace('"peft_type"', f'"base_model_name_or_path": "{"a" * 300}/b", "peft_type"')
    )
    assert main(["validate", "./mine"]) == 1
    assert "Traceback" not in capsys.readouterr().err
