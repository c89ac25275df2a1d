"""``RUN/checkpoint-N`` and ``RUN/checkpoint-latest``: one folder of a training run, wherever it lies."""

import json
from pathlib import Path

import pytest

import lora_cli
from lora_cli.cli.main import main
from tests.fetching.desk import CONFIG
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base

Captured = pytest.CaptureFixture[str]
DENY = 'deny_sources: ["hf://org/run/checkpoint-10"]'


class Run:
    """A training run that grows, and what is printed when it is fetched."""

    def __init__(self, ref: str, hub: Hub, capsys: Captured) -> None:
        self.ref, self.hub, self.capsys = ref, hub, capsys

    def save(self, *numbers: int) -> str:
        for number in numbers:
            folder = write_adapter(Path(f"run/checkpoint-{number}").absolute(), modules=llama_modules(), r=number)
            (folder / "optimizer.pt").write_bytes(bytes(100))
        return self.hub.add("org/run", Path("run"))

    def at(self, checkpoint: object) -> str:
        repository, at, revision = self.ref.partition("@")
        return f"{repository}/checkpoint-{checkpoint}{at}{revision}"

    def fetch(self, *words: str) -> tuple[int, int]:
        """The exit code, and the rank of what was fetched, which is the number of its checkpoint."""
        code = main(["fetch", *words])
        directory = self.capsys.readouterr().out.strip()
        return code, json.loads((Path(directory) / CONFIG).read_text())["r"] if directory else 0


@pytest.fixture(params=["hf://org/run", "./run"])
def run(
    request: pytest.FixtureRequest, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", "cache")
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    return Run(request.param, hub, capsys)


def test_a_checkpoint_is_fetched_and_judged_by_its_number_or_as_the_latest(run: Run) -> None:
    run.save(9, 10)
    assert run.fetch(run.at(9)) == (0, 9)
    assert run.fetch(run.at("latest")) == (0, 10)
    base = str(write_base(Path("base").absolute()))
    for checkpoint in (9, 10):
        ref = run.at(9 if checkpoint == 9 else "latest")
        for words in (["validate", "--base", base, ref], ["inspect", ref]):
            assert main([*words, "--format", "json"]) == 0
            (found,) = json.loads(run.capsys.readouterr().out)["adapters"]
            assert found["source"].partition("@")[0].endswith(f"checkpoint-{checkpoint}")
    assert lora_cli.validate(run.at("latest"), base).applied
    run.save(11)
    assert run.fetch(run.at("latest/")) == (0, 11)
    assert main(["fetch", run.at(7)]) == 3


@pytest.mark.parametrize("run", ["hf://org/run"], indirect=True)
def test_the_latest_of_a_commit_costs_no_request_once_it_is_here_and_a_policy_speaks_of_its_folder(run: Run) -> None:
    run.ref = f"hf://org/run@{run.save(9, 10)}"
    assert run.fetch(run.at("latest")) == (0, 10)
    asked = run.hub.count()
    for words in ([], ["--offline"]):
        assert run.fetch(run.at("latest"), *words) == (0, 10)
    assert run.hub.count() == asked
    Path("policy.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: Policy\n{DENY}\n")
    for command in (["fetch"], ["fetch", "--offline"], ["validate", "--base", "none"]):
        assert main([*command, run.at("latest"), "--policy", "policy.yaml"]) == 1, command


def test_a_manifest_names_a_checkpoint_and_its_lock_holds_it(run: Run) -> None:
    def fetch(checkpoint: object, *options: str) -> tuple[int, int]:
        entry = f"{{name: run, source: '{run.at(checkpoint)}'}}"
        Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{entry}]\n")
        return run.fetch("-f", "set.yaml", *options)

    run.save(9, 10)
    assert fetch(9) == (0, 9)
    assert fetch("latest") == (0, 10)
    assert main(["fetch", "-f", "set.yaml", "--check"]) == 0
    run.save(11)
    assert main(["fetch", "-f", "set.yaml", "--check"]) == 1
    run.capsys.readouterr()
    if run.ref == "hf://org/run":  # a folder is no revision to stay at
        assert fetch("latest") == (0, 10)
        assert fetch("latest", "--locked", "--cache-dir", "empty") == (0, 10)
        assert run.fetch("run/checkpoint-10", "--cache-dir", "other") == (0, 10)
        asked = run.hub.count()
        assert fetch("latest", "--locked", "--cache-dir", "other") == (0, 10)
        assert run.hub.count() == asked, "its bytes are here, of whatever origin"
        Path("policy.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: Policy\n{DENY}\n")
        assert fetch("latest", "--locked", "--cache-dir", "other", "--policy", "policy.yaml") == (1, 0)
    assert fetch("latest", "--upgrade") == (0, 11)
    assert fetch("latest", "--locked") == (0, 11)
    assert fetch(11, "--locked") == (1, 0)
