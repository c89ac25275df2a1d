"""``--prune``: what an engine no longer serves, and what it goes on serving."""

from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.endpoint.engine import Engine
from tests.endpoint.sets import NAMES, Warm, actions, write_set


def test_prune_unloads_what_is_not_named_and_only_then(folder: Path, warm: Warm) -> None:
    with Engine() as engine:
        warm(engine)
        write_set(folder, "chat")
        assert actions(warm(engine)[1]) == {"chat": "kept"}
        assert set(engine.adapters) == {"sql", "chat"}
        assert actions(warm(engine, "--prune")[1]) == {"chat": "kept", "sql": "pruned"}
        assert set(engine.adapters) == {"chat"}


@pytest.mark.parametrize("why", ["refused", "unreachable", "gone"])
def test_prune_leaves_what_the_manifest_has_though_this_machine_cannot_have_it(
    folder: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    with Engine() as engine:
        warm(engine)
        if why == "unreachable":
            write_set(folder, *NAMES, sources=["http://127.0.0.1:9/sql/", "./chat"])
        elif why == "gone":
            write_set(folder, *NAMES, sources=["./nowhere", "./chat"])
        else:
            (folder / "sql" / "adapter_model.safetensors").write_bytes(b"broken")
        code, document = warm(engine, "--prune")
        assert code == {"refused": 1, "unreachable": 4, "gone": 3}[why]
        assert actions(document) == {"chat": "kept", "sql": "kept"}
        assert [one["name"] for one in document["refused"]] == ["sql"]
        (still,) = [one for one in document["servers"][0]["adapters"] if one["name"] == "sql"]
        assert "sql is still served from" in still["error"]["message"]
        assert set(engine.adapters) == {"sql", "chat"}


@pytest.mark.parametrize("argv", [("--shard", "0/2"), ("--shard", "1/2"), ("sql",)])
def test_prune_is_by_the_whole_manifest_for_a_part_of_it_too(warm: Warm, argv: tuple[str, ...]) -> None:
    with Engine() as engine:
        warm(engine)
        engine.adapters["other"] = engine.adapters["sql"]
        assert warm(engine, "--prune", *argv)[0] == 0
        assert set(engine.adapters) == {"sql", "chat"}


def test_prune_of_a_shard_of_refs_would_unload_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["warm", str(folder / "sql"), "--shard", "0/2", "--endpoint", "http://127.0.0.1:9", "--engine", "vllm"]
    assert main([*argv, "--prune"]) == 2
    assert "--prune would unload the adapters of other shards" in capsys.readouterr().err
