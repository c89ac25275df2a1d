"""``warm --ready-file``: what a probe, or a container that waits, sees of a run."""

import json
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base_config


def test_the_ready_file_is_there_when_all_are_proved_and_only_then(tmp_path: Path) -> None:
    base, one = write_base_config(tmp_path / "base"), write_adapter(tmp_path / "one", modules=llama_modules(["q_proj"]))
    ready = tmp_path / "ready"

    def once(*refs: Path) -> int:
        words = ["--base", base, "--device", "cpu", "--ready-file", ready, "--cache-dir", tmp_path / "cache"]
        return main(["warm", *map(str, (*refs, *words))])

    assert once(one) == 0
    assert json.loads(ready.read_text()) == {"pid": None, "proved": 1}
    assert once(one, tmp_path / "nowhere") == 3
    assert not ready.exists()


@pytest.mark.parametrize("mode", [[], ["--serve"]])
def test_the_ready_file_of_an_earlier_run_goes_before_anything_is_looked_at(mode: list[str], tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.write_text("{}")
    words = ["--base", tmp_path / "no-base", "--ready-file", ready, "--cache-dir", tmp_path / "cache"]
    assert main(["warm", *mode, *map(str, (tmp_path / "nowhere", *words))]) == 3
    assert not ready.exists()


ENDPOINT = ["a", "--base", "b", "--endpoint", "http://x"]


@pytest.mark.parametrize("mode", [ENDPOINT, ["a", "--serve"]])
def test_the_metrics_file_is_refused_where_there_are_metrics_to_ask_for(
    mode: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["warm", *mode, "--metrics-file", "file"]) == 2
    assert "--metrics-file is for a run that proves all adapters once" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--engine", "vllm"], ["--prune"]])
def test_an_option_of_running_engines_is_refused_without_one(
    option: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a run would look as if the engine had been checked. A variable may be there for other commands."""
    assert main(["warm", "a", "--base", "b", *option]) == 2
    assert f"{option[0]} is for --endpoint" in capsys.readouterr().err
    monkeypatch.setenv("LORA_CLI_ENGINE", "vllm")
    assert main(["warm", "./nowhere", "--base", "./b"]) == 3
