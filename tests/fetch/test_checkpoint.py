"""``--checkpoint N|latest``: one folder of a training run, wherever it lies."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.fetch.checkpoint import latest
from lora_cli.fetch.plan import Selection, plan
from tests.hub_server import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REF = AdapterRef("hf", "org/run", "", "main")


def listing(*paths: str) -> Revision:
    return Revision(REF, "c" * 40, tuple(RemoteFile(path, 1, locator=path) for path in paths))


def complete(*folders: str) -> list[str]:
    return [f"{folder}/{name}" for folder in folders for name in (CONFIG, WEIGHTS, "optimizer.pt")]


def test_the_highest_number_is_the_latest_and_not_the_last_in_the_alphabet() -> None:
    found = latest(listing(*complete("checkpoint-9", "checkpoint-100", "checkpoint-20"), CONFIG, WEIGHTS))
    assert str(found.ref) == "hf://org/run/checkpoint-100@main"
    assert [file.path for file in plan(found, Selection())] == [CONFIG, WEIGHTS]
    assert found.files[0].locator == f"checkpoint-100/{CONFIG}"


def test_one_that_is_being_written_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    run = listing(*complete("checkpoint-5"), f"checkpoint-7/{CONFIG}", f"checkpoint-8/{WEIGHTS}", "checkpoint-9/x")
    assert latest(run).ref.subfolder == "checkpoint-5"
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "checkpoint-9 is passed over: it lacks a config or weights",
        "checkpoint-8 is passed over: it lacks a config or weights",
        "checkpoint-7 is passed over: it lacks a config or weights",
        "the latest checkpoint is checkpoint-5",
    ]


def test_only_folders_of_that_name_right_there_are_checkpoints(caplog: pytest.LogCaptureFixture) -> None:
    odd = ("checkpoint-", "checkpoint-x", "Checkpoint-3", "checkpoint-3.old", "a/checkpoint-4", "checkpoint-٣")
    run = listing(*complete(*odd), CONFIG, WEIGHTS, "checkpoint-99999999999999999999/x", "checkpoint-8")
    assert latest(run) == run
    assert "there is no checkpoint, the adapter itself is taken" in caplog.text


def test_where_there_is_nothing_the_error_says_what_there_is() -> None:
    with pytest.raises(FormatError, match="there is no checkpoint here") as caught:
        latest(listing(*complete("run/checkpoint-10", "run/checkpoint-9", "best")))
    assert caught.value.hint.endswith("there are adapters in best, run/checkpoint-9, run/checkpoint-10")


def test_a_run_without_an_adapter_beside_its_checkpoints_says_how_to_ask() -> None:
    with pytest.raises(FormatError) as caught:
        plan(listing(*complete("checkpoint-10", "checkpoint-9")), Selection())
    assert "--checkpoint latest" in caught.value.hint
    assert "checkpoint-9, checkpoint-10" in caught.value.hint


class Run:
    """A training run that grows, and what is printed when it is fetched."""

    def __init__(self, place: str, folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.hub, self.capsys = folder, hub, capsys
        self.ref = "org/run" if place == "hub" else str(folder)

    def save(self, *numbers: int) -> str:
        for number in numbers:
            folder = self.folder / f"checkpoint-{number}"
            folder.mkdir(parents=True)
            (folder / CONFIG).write_text(json.dumps({"r": number}))
            (folder / WEIGHTS).write_bytes(b"weights %d" % number)
            (folder / "optimizer.pt").write_bytes(bytes(100))
        return self.hub.add("org/run", self.folder)

    def fetch(self, *options: str, ref: str = "") -> dict[str, bytes]:
        assert main(["fetch", ref or self.ref, *options]) == 0
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
    assert run.fetch("--checkpoint", "9") == {CONFIG: b'{"r": 9}', WEIGHTS: b"weights 9"}
    assert run.fetch("--checkpoint", "latest") == {CONFIG: b'{"r": 10}', WEIGHTS: b"weights 10"}
    run.save(11)
    assert run.fetch("--checkpoint", "latest")[WEIGHTS] == b"weights 11"
    assert run.fetch("--checkpoint", "latest", "--link")[WEIGHTS] == b"weights 11"


def test_a_number_that_is_not_there_is_not_found(run: Run) -> None:
    run.save(9)
    assert main(["fetch", run.ref, "--checkpoint", "8"]) == 3
    assert "checkpoint-8" in run.capsys.readouterr().err


def test_the_latest_of_a_commit_costs_no_request_once_it_is_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = f"org/run@{run.save(9, 10)}"
    first = run.fetch("--checkpoint", "latest", ref=pinned)
    asked = run.hub.count()
    assert asked == 4
    assert run.fetch("--checkpoint", "latest", ref=pinned) == first
    assert run.fetch("--checkpoint", "10", ref=pinned) == first
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run.fetch("--checkpoint", "latest", ref=pinned) == first
    assert run.hub.count() == asked


def test_a_folder_and_a_checkpoint_in_it(run: Run) -> None:
    run.folder = run.folder / "first"
    run.save(1, 2)
    run.hub.add("org/run", run.folder.parent)
    for options in (["--subfolder", "first", "--checkpoint", "2"], ["--subfolder", "first/", "--checkpoint", "latest"]):
        assert run.fetch(*options)[WEIGHTS] == b"weights 2"


@pytest.mark.parametrize("word", ["last", "-1", "1.5", "checkpoint-1", "", "9" * 19])
def test_any_other_word_is_refused_before_anything_is_asked(run: Run, word: str) -> None:
    run.save(1)
    code = main(["fetch", run.ref, f"--checkpoint={word}"])
    assert code == (1 if word == "" else 2)
    assert word == "" or run.hub.count() == 0


def test_a_manifest_says_it_itself(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text("apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: []\n")
    assert main(["fetch", "-f", str(tmp_path / "set.yaml"), "--checkpoint", "latest"]) == 2
    assert "hf://ORG/NAME/checkpoint-N" in run.capsys.readouterr().err


def test_the_latest_of_a_commit_is_asked_for_where_a_policy_wants_that(run: Run, tmp_path: Path) -> None:
    pinned = f"org/run@{run.save(9, 10)}"
    (tmp_path / "policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nrequire_access_check: true\n")
    for _ in range(2):
        options = ("--checkpoint", "latest", "--policy", str(tmp_path / "policy.yaml"))
        assert run.fetch(*options, ref=pinned)[WEIGHTS] == b"weights 10"
    assert run.hub.count("checkpoint-10/adapter_config.json") > 1


@pytest.fixture(autouse=True)
def _talk(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lora_cli")
