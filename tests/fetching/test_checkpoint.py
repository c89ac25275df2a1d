"""``RUN/checkpoint-N`` and ``RUN/checkpoint-latest``: one folder of a training run, wherever it lies."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lora_cli
from lora_cli.cli.adapter_selection import read_inputs
from lora_cli.cli.main import main
from lora_cli.core.reference import AdapterRef
from lora_cli.core.request import Selection
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.fetching.file_selection import latest_checkpoint, select_files
from lora_cli.fetching.pipeline import FetchContext
from lora_cli.settings import load_settings
from lora_cli.store import Store
from lora_cli.validation import Terms
from lora_cli.validation.fetch_and_validate import fetch_adapter, validate_fetched
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REF = AdapterRef("hf", "org/run", "", "main")


def listing(*paths: str) -> Revision:
    return Revision(REF, "c" * 40, tuple(RemoteFile(path, 1, locator=path) for path in paths))


def complete(*folders: str) -> list[str]:
    return [f"{folder}/{name}" for folder in folders for name in (CONFIG, WEIGHTS, "optimizer.pt")]


def test_the_highest_number_is_the_latest_and_not_the_last_in_the_alphabet() -> None:
    found = latest_checkpoint(listing(*complete("checkpoint-9", "checkpoint-100", "checkpoint-20"), CONFIG, WEIGHTS))
    assert str(found.ref) == "hf://org/run/checkpoint-100@main"
    assert [file.path for file in select_files(found, Selection())] == [CONFIG, WEIGHTS]
    assert found.files[0].locator == f"checkpoint-100/{CONFIG}"


def test_one_that_is_being_written_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    run = listing(*complete("checkpoint-5"), f"checkpoint-7/{CONFIG}", f"checkpoint-8/{WEIGHTS}", "checkpoint-9/x")
    assert latest_checkpoint(run).ref.subfolder == "checkpoint-5"
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "checkpoint-9 is skipped: it has no config or weights",
        "checkpoint-8 is skipped: it has no config or weights",
        "checkpoint-7 is skipped: it has no config or weights",
        "the latest checkpoint is checkpoint-5",
    ]


def test_only_folders_of_that_name_right_there_are_checkpoints(caplog: pytest.LogCaptureFixture) -> None:
    odd = ("checkpoint-", "checkpoint-x", "Checkpoint-3", "checkpoint-3.old", "a/checkpoint-4", "checkpoint-٣")
    run = listing(*complete(*odd), CONFIG, WEIGHTS, "checkpoint-99999999999999999999/x", "checkpoint-8")
    assert latest_checkpoint(run) == run
    assert "there are no checkpoints, the adapter itself is used" in caplog.text


def test_where_there_is_nothing_the_error_says_what_there_is() -> None:
    folders = listing(*complete("run-10/checkpoint-10", "run-9/checkpoint-8", "run-9/checkpoint-9", "best"))
    with pytest.raises(FormatError, match="there are no checkpoints here"):
        latest_checkpoint(folders)
    with pytest.raises(FormatError) as caught:
        select_files(folders, Selection())
    assert caught.value.hint == "it has 3 adapters, in best, run-9, run-10: use hf://org/run/best@main"
    with pytest.raises(FormatError) as caught:
        select_files(listing(*complete("checkpoint-10", "checkpoint-9")), Selection())
    assert caught.value.hint == "use hf://org/run/checkpoint-latest@main"


class Run:
    """A training run that grows, and what is printed when it is fetched."""

    def __init__(self, place: str, folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.hub, self.capsys = folder, hub, capsys
        self.ref = "hf://org/run" if place == "hub" else str(folder)

    def save(self, *numbers: int) -> str:
        for number in numbers:
            folder = self.folder / f"checkpoint-{number}"
            folder.mkdir(parents=True)
            (folder / CONFIG).write_text(json.dumps({"r": number}))
            (folder / WEIGHTS).write_bytes(b"weights %d" % number)
            (folder / "optimizer.pt").write_bytes(bytes(100))
        return self.hub.add("org/run", self.folder)

    def at(self, folder: str) -> str:
        """The reference to a folder in the run."""
        repository, at, revision = self.ref.partition("@")
        return f"{repository}/{folder}{at}{revision}"

    def fetch(self, folder: str) -> dict[str, bytes]:
        assert main(["fetch", self.at(folder)]) == 0
        found = Path(self.capsys.readouterr().out.strip())
        return {path.name: path.read_bytes() for path in found.iterdir()}


@pytest.fixture(params=["hub", "folder"])
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield Run(request.param, tmp_path / "org" / "run", hub, capsys)


def test_a_checkpoint_is_fetched_by_its_number_or_as_the_latest(run: Run) -> None:
    run.save(9, 10)
    assert run.fetch("checkpoint-9") == {CONFIG: b'{"r": 9}', WEIGHTS: b"weights 9"}
    assert run.fetch("checkpoint-latest") == {CONFIG: b'{"r": 10}', WEIGHTS: b"weights 10"}
    run.save(11)
    assert run.fetch("checkpoint-latest/")[WEIGHTS] == b"weights 11"


def test_the_latest_of_a_commit_costs_no_request_once_it_is_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.ref = f"hf://org/run@{run.save(9, 10)}"
    first = run.fetch("checkpoint-latest")
    asked = run.hub.count()
    assert asked == 4
    assert run.fetch("checkpoint-latest") == first
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run.fetch("checkpoint-latest") == first
    assert run.hub.count() == asked


def manifest(tmp_path: Path, run: Run, checkpoint: str) -> Path:
    """An adapter set with one adapter: a checkpoint of the run."""
    file = tmp_path / "set.yaml"
    entry = f"{{name: run, source: {json.dumps(run.at(f'checkpoint-{checkpoint}'))}}}"
    file.write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n  - {entry}\n")
    return file


def fetch_set(run: Run, file: Path, *options: str) -> tuple[int, str]:
    code = main(["fetch", "-f", str(file), *options])
    return code, run.capsys.readouterr().out.strip()


def test_a_manifest_names_a_checkpoint_and_its_lock_holds_it(run: Run, tmp_path: Path) -> None:
    run.save(9, 10)
    code, found = fetch_set(run, manifest(tmp_path, run, "9"))
    assert (code, (Path(found) / WEIGHTS).read_bytes()) == (0, b"weights 9")
    file = manifest(tmp_path, run, "latest")
    code, found = fetch_set(run, file)
    assert (code, (Path(found) / WEIGHTS).read_bytes()) == (0, b"weights 10")
    assert "checkpoint-latest" in file.with_name("set.lock.yaml").read_text()
    assert fetch_set(run, file, "--check") == (0, "run: as locked")
    run.save(11)
    code, said = fetch_set(run, file, "--check")
    assert code == 1
    assert f"{WEIGHTS} has" in said
    code, found = fetch_set(run, file, "--upgrade")
    assert (code, (Path(found) / WEIGHTS).read_bytes()) == (0, b"weights 11")
    assert fetch_set(run, file, "--locked") == (0, found)
    assert fetch_set(run, manifest(tmp_path, run, "11"), "--locked") == (1, "")


def test_what_is_locked_stays_when_a_later_checkpoint_comes(run: Run, tmp_path: Path) -> None:
    if run.ref != "hf://org/run":
        pytest.skip("a folder is no revision to stay at")
    run.save(9, 10)
    file = manifest(tmp_path, run, "latest")
    first = fetch_set(run, file)
    run.save(11)
    assert fetch_set(run, file) == first
    assert fetch_set(run, file, "--locked", "--cache-dir", str(tmp_path / "empty"))[0] == 0


def adapters(run: Run) -> str:
    """A run whose checkpoints 9 and 10 are adapters of rank 9 and 10; and their base's config."""
    for number in (9, 10):
        write_adapter(run.folder / f"checkpoint-{number}", modules=llama_modules(), r=number)
    run.hub.add("org/run", run.folder)
    return str(write_base(run.folder.parents[1] / "base"))


def said(run: Run, *argv: str) -> dict[str, Any]:
    assert main([*argv, "--format", "json"]) == 0
    (found,) = json.loads(run.capsys.readouterr().out)["adapters"]
    return dict(found)


@pytest.mark.parametrize(
    ("asked", "folder"),
    [("/checkpoint-9", "checkpoint-9"), ("/checkpoint-latest", "checkpoint-10"), ("", "checkpoint-10")],
)
def test_validate_and_inspect_look_at_the_checkpoint(run: Run, asked: str, folder: str) -> None:
    base, ref = adapters(run), run.ref + asked
    for words in (["validate", "--base", base], ["inspect"]):
        assert said(run, *words, ref)["source"].partition("@")[0].endswith(folder)
    named = run.at(asked.strip("/") or "checkpoint-latest")
    assert lora_cli.validate(named, base).applied
    assert main(["fetch", named]) == 0
    run.capsys.readouterr()
    found = said(run, "validate", "--base", base, ref)
    assert not found["skipped"] or "fetch it first" not in json.dumps(found["skipped"])


def test_warm_admits_the_checkpoint_of_a_reference_or_a_manifest(run: Run, tmp_path: Path) -> None:
    base = adapters(run)
    (asked,) = read_inputs(None, [run.at("checkpoint-latest")], base, "warm").items
    (named,) = read_inputs(manifest(tmp_path, run, "latest"), [], base, "warm").items
    (numbered,) = read_inputs(None, [run.at("checkpoint-9")], base, "warm").items
    settings = load_settings({}, os.environ)
    for item, rank in ((asked, 10), (named, 10), (numbered, 9)):
        with FetchContext(Store(settings.cache_dir), settings) as context:
            fetched = fetch_adapter(item, context)
        admission = validate_fetched(fetched, Terms(), settings)
        assert admission.refusal is None
        assert admission.adapter is not None
        assert admission.adapter.config is not None
        assert admission.adapter.config.r == rank


def test_a_policy_speaks_of_the_folder_that_the_latest_one_is(run: Run, tmp_path: Path) -> None:
    if run.ref != "hf://org/run":
        pytest.skip("denied are repositories here")
    base, file = adapters(run), tmp_path / "policy.yaml"
    run.ref = f"hf://org/run@{run.hub.commit('org/run').id}"
    assert main(["fetch", run.at("checkpoint-latest")]) == 0
    file.write_text('{apiVersion: lora-cli/v1, kind: Policy, deny_sources: ["hf://org/run/checkpoint-10"]}')
    for words in (["fetch"], ["fetch", "--offline"], ["validate", "--base", base]):
        code = main([*words, run.at("checkpoint-latest"), "--policy", str(file)])
        assert code == (3 if "--offline" in words else 1), words


@pytest.fixture(autouse=True)
def _talk(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lora_cli")


def test_a_checkpoint_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (5, 10):
        write_adapter(tmp_path / f"run/checkpoint-{number}")
    assert main(["fetch", str(tmp_path / "run/checkpoint-7")]) == 3
    assert "hint: there are checkpoint-10, checkpoint-5" in capsys.readouterr().err
