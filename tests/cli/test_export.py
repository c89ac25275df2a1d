"""``lora-cli export``: what it needs of a manifest and its lock, and where it writes."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from lora_cli.cli.main import main
from lora_cli.reading.manifest import read_lock
from lora_cli.render.platforms import PLATFORMS
from tests.cli.locked_sets import hub_of_two, locked
from tests.cli.test_completion import zsh
from tests.making import write_adapter, write_base_config

BASE = "acme/base-8b@" + "9f" * 20
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """A folder with a set of two adapters, locked and cached."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "adapters/sql", r=8, config={"base_model_name_or_path": "acme/base-8b"})
    write_adapter(tmp_path / "adapters/chat", r=20, config={"base_model_name_or_path": "acme/base-8b"})
    write_set("sql", "chat")
    assert main(["fetch", "-f", "set.yaml"]) == 0
    capsys.readouterr()
    return tmp_path


def write_set(*names: str, head: str = "base: ./base\n") -> None:
    entries = "".join(f"  - {{name: {name}, source: ./adapters/{name}}}\n" for name in names)
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\n{head}adapters:\n{entries}")


def export(*argv: str, code: int = 0) -> None:
    assert main(["export", *argv]) == code


def test_a_command_line_starts_the_engine_of_this_machine(folder: Path, capsys: Capture) -> None:
    export("vllm-cli", "-f", "set.yaml")
    out, err = capsys.readouterr()
    assert err == ""
    words = shlex.split(out.replace("\\\n", " "), comments=True)
    assert words[:3] == ["vllm", "serve", str(folder / "base")]
    assert " ".join(words[3:-2]) == "--enable-lora --max-lora-rank 32 --max-loras 2 --max-cpu-loras 2 --lora-modules"
    for word, name in zip(words[-2:], ("sql", "chat"), strict=True):
        module = json.loads(word)
        assert module["name"] == name
        assert Path(module["path"]).is_relative_to(folder / "cache")
        assert (Path(module["path"]) / "adapter_model.safetensors").is_file()


def test_the_limits_are_those_of_the_manifest_for_the_same_engine(folder: Path, capsys: Capture) -> None:
    write_set("sql", "chat", head="base: ./base\nengine: {name: vllm, max_loras: 1, max_cpu_loras: 1}\n")
    export("vllm-cli", "-f", "set.yaml")
    assert "--max-loras 1 \\\n  --max-cpu-loras 1 \\\n" in capsys.readouterr().out
    export("sglang-cli", "-f", "set.yaml")
    assert "--max-loras-per-batch 3 \\\n  --max-loaded-loras 3 \\\n" in capsys.readouterr().out


def test_sglang_has_room_for_all_adapters_because_it_would_not_start(folder: Path, capsys: Capture) -> None:
    write_set("sql", "chat", head="base: ./base\nengine: {name: sglang, max_loras: 1, max_cpu_loras: 1}\n")
    export("sglang-cli", "-f", "set.yaml")
    assert "--max-loras-per-batch 1 \\\n  --max-loaded-loras 2 \\\n" in capsys.readouterr().out


def test_the_base_is_that_of_the_configs_where_the_manifest_has_none(folder: Path, capsys: Capture) -> None:
    write_set("sql", "chat", head="")
    export("kserve", "-f", "set.yaml")
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["spec"]["model"]["uri"] == "hf://acme/base-8b"
    assert "# Not pinned: the base acme/base-8b\n" in out
    assert "base: acme/base-8b (from the adapter's config)" in err


def test_configs_with_several_bases_are_a_warning_beside_a_base_and_an_error_without(
    folder: Path, capsys: Capture
) -> None:
    write_adapter(folder / "adapters/law", config={"base_model_name_or_path": "acme/other"})
    write_set("sql", "law")
    assert main(["fetch", "-f", "set.yaml"]) == 0
    capsys.readouterr()
    export("dynamo", "-f", "set.yaml", "--base", BASE)
    assert "warning: the configs name several bases: acme/base-8b (sql), acme/other (law)" in capsys.readouterr().err
    write_set("sql", "law", head="")
    export("dynamo", "-f", "set.yaml", code=2)
    assert "the adapters are for several bases" in capsys.readouterr().err


def test_a_file_has_the_output_and_a_pipe_has_nothing_else(folder: Path, capsys: Capture) -> None:
    argv = ["aibrix", "-f", "set.yaml", "--served-model-name", "base-8b"]
    export(*argv)
    out, err = capsys.readouterr()
    assert err == ""
    export(*argv, "-o", "out.yaml")
    assert capsys.readouterr() == ("", "wrote out.yaml\n")
    assert Path("out.yaml").read_text() == out
    export(*argv, "-o", "-")
    assert capsys.readouterr().out == out
    digests = {one.name: one.digest for one in read_lock(Path("set.lock.yaml")).adapters}
    for document in yaml.safe_load_all(out):
        assert document["spec"]["artifactURL"].endswith(digests[document["metadata"]["name"]])
        assert document["spec"]["baseModel"] == "base-8b"


def unlock(folder: Path) -> None:
    (folder / "set.lock.yaml").unlink()


def add(folder: Path) -> None:
    write_adapter(folder / "adapters/law")
    write_set("sql", "law")


def empty_cache(folder: Path) -> None:
    assert main(["cache", "rm", "--all", "--yes"]) == 0


@pytest.mark.parametrize(
    ("change", "argv", "said", "code"),
    [
        (unlock, "vllm-cli -f set.yaml", "there is no lock set.lock.yaml\nhint: lora-cli fetch -f set.yaml", 3),
        (add, "vllm-cli -f set.yaml", "set.lock.yaml does not match set.yaml: law\nhint: lora-cli fetch -f set", 1),
        (empty_cache, "vllm-cli -f set.yaml", "sql, chat: not in the cache\nhint: lora-cli fetch -f set.yaml", 3),
        (None, "kserve -f set.yaml", "KServe 0.20 needs a base on the Hub\nhint: --base ORG/NAME", 2),
        (None, "vllm-cli -f -", "export needs a manifest in a file", 2),
        (None, "vllm-cli -f none.yaml", "there is no manifest none.yaml", 3),
        (None, "nomad -f set.yaml", "'nomad' is not one of 'kserve'", 2),
        (None, "vllm-cli", "--manifest", 2),
        (None, "vllm-cli -f set.yaml -o none/x", "none/x cannot be written", 6),
        (None, "kserve -f set.yaml --published", "--published needs --at\nhint: --at FOLDER", 2),
        (None, "rayserve -f set.yaml", "--at is needed: Ray 2.60 reads adapters from s3://…", 2),
    ],
)
def test_what_cannot_be_exported_is_one_message(
    change: object, argv: str, said: str, code: int, folder: Path, capsys: Capture
) -> None:
    if callable(change):
        change(folder)
    capsys.readouterr()
    export(*argv.split(), code=code)
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("error: ") == 1
    assert out == ""


def test_a_repository_is_read_at_the_commit_of_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for hub in hub_of_two(tmp_path, monkeypatch):
        assert main(["fetch", "-f", "set.yaml"]) == 0
        hub.requests.clear()
        capsys.readouterr()
        export("kserve", "-f", "set.yaml", "--base", BASE, "--from-origin")
        assert hub.requests == []
    model = yaml.safe_load(capsys.readouterr().out)
    assert [one["uri"] for one in model["spec"]["model"]["lora"]["adapters"]] == [
        f"hf://org/{name}:{locked(name).revision}" for name in ("sql", "chat")
    ]


def test_a_repository_at_an_endpoint_of_the_manifest_is_not_read_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for hub in hub_of_two(tmp_path, monkeypatch):
        rule = f"sources:\n  - {{match: 'hf://org/chat', endpoint_url: '{hub.endpoint}'}}\n"
        Path("set.yaml").write_text(Path("set.yaml").read_text() + rule)
        assert main(["fetch", "-f", "set.yaml"]) == 0
        capsys.readouterr()
        export("kserve", "-f", "set.yaml", "--base", BASE, "--from-origin")
    out = capsys.readouterr().out
    sql, chat = (one["uri"] for one in yaml.safe_load(out)["spec"]["model"]["lora"]["adapters"])
    assert sql == f"hf://org/sql:{locked('sql').revision}"
    assert chat.endswith(f"/snapshots/sha256/{locked('chat').digest}")
    assert "# Not read from the origin, because KServe cannot: chat" in out


def test_a_rank_that_the_engine_does_not_have_is_refused(folder: Path, capsys: Capture) -> None:
    write_adapter(folder / "adapters/sql", r=1024)
    assert main(["fetch", "-f", "set.yaml"]) == 0
    export("vllm-cli", "-f", "set.yaml", code=2)
    assert "sql has rank 1024, and vLLM has at most 512" in capsys.readouterr().err


def test_a_shell_offers_the_platforms() -> None:
    assert zsh("lora-cli export ") == list(PLATFORMS)
