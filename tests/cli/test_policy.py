"""``--policy FILE``: one file, the same in fetch, validate and warm; a violation names its rule."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base, write_base_config

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"


@pytest.fixture(autouse=True)
def a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql", modules=llama_modules())
    write_base_config(tmp_path / "base")


def policy(text: str, name: str = "policy.yaml") -> str:
    Path(name).write_text(HEAD + text)
    return name


COMMANDS = {
    "fetch": ["fetch", "./sql"],
    "validate": ["validate", "./sql", "--base", "base"],
    "inspect": ["inspect", "./sql"],
    "repair": ["repair", "./sql", "--engine", "vllm", "--check"],
    "warm": ["warm", "./sql", "--base", "base", "--once", "--device", "cpu"],
}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "repair"])
@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("allow_sources: ['hf://acme/*']", "allow_sources"),
        ("deny_sources: ['./sql']", "deny_sources"),
        ("require_pinned: true", "require_pinned"),
        ("max_bytes: 1KiB", "max_bytes"),
        ("allow_formats: [gguf]", "allow_formats"),
    ],
)
def test_a_violation_names_its_rule_and_ends_with_1(
    command: str, text: str, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "warm":
        write_base(Path("base"))
    assert main([*COMMANDS[command], "--policy", policy(text)]) == 1
    out, err = capsys.readouterr()
    assert f"policy {rule}:" in " ".join((out + err).split())


@pytest.mark.parametrize("command", ["fetch", "validate"])
def test_what_is_allowed_passes(command: str) -> None:
    rules = ("allow_sources: ['./s*']", "max_bytes: 1MiB", "allow_formats: [safetensors]")
    assert main([*COMMANDS[command], "--policy", policy("\n".join(rules))]) == 0


@pytest.mark.parametrize("command", ["fetch", "validate"])
def test_the_manifests_policy_and_the_file_hold_both(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(in_manifest: str, in_file: str) -> int:
        Path("set.yaml").write_text(
            "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
            f"policy: {{{in_manifest}}}\nadapters:\n  - {{name: sql, source: ./sql}}\n"
        )
        return main([command, "-f", "set.yaml", "--policy", policy(in_file)])

    assert run("max_bytes: 1GiB", "max_bytes: 1GiB") == 0
    assert run("max_bytes: 1KiB", "max_bytes: 1GiB") == 1
    assert run("max_bytes: 1GiB", "max_bytes: 1KiB") == 1
    assert "policy max_bytes" in " ".join(capsys.readouterr().err.split()) or command == "validate"


def test_a_policy_file_can_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_POLICY", policy("deny_sources: ['./sql']"))
    assert [main(COMMANDS[command]) for command in ("fetch", "validate", "inspect", "repair")] == [1, 1, 1, 1]
    assert main(["init", "./sql", "-o", "new.yaml"]) == 1


def test_repair_holds_what_the_manifest_says_of_an_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
    entry = "adapters:\n  - {name: sql, source: ./sql"
    words = ["repair", "-f", "set.yaml", "--engine", "vllm", "--to", "repaired"]
    Path("set.yaml").write_text(f"{head}policy: {{deny_sources: ['./sql']}}\n{entry}}}\n")
    assert main(words) == 1
    Path("set.yaml").write_text(f"{head}{entry}, sha256: {'0' * 64}}}\n")
    assert main(words) == 5
    assert not Path("repaired").exists()
    Path("set.yaml").write_text(f"{head}{entry}}}\n")
    assert main(words) == 0


@pytest.mark.parametrize("command", ["fetch", "validate"])
def test_a_policy_that_is_wrong_ends_with_2_and_names_the_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMANDS[command], "--policy", policy("deny_source: []")]) == 2
    assert "policy.yaml:3: deny_source: unknown key" in capsys.readouterr().err
    assert main([*COMMANDS[command], "--policy", policy("deny_sources: ['https://me:hunter2@x/*']")]) == 2
    assert "hunter2" not in capsys.readouterr().err
    assert main([*COMMANDS[command], "--policy", "none.yaml"]) == 3


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as running:
        running.add("acme/sql", Path("sql"), gated=True)
        running.token("hf_alice", "acme/sql")
        running.token("hf_bob")
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


def test_a_digest_that_nobody_knows_yet_is_no_pass(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    Path("set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\npolicy: {max_bytes: 1GiB}\n"
        f"adapters:\n  - {{name: sql, source: hf://acme/sql, sha256: {'0' * 64}}}\n"
    )
    assert main(["inspect", "-f", "set.yaml"]) == 1
    assert "its digest is unknown before it is fetched" in " ".join(capsys.readouterr().out.split())
    assert main(["validate", "-f", "set.yaml"]) == 5


def test_a_base_that_only_an_adapter_names_must_be_allowed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(tmp_path / "sql", modules=llama_modules(), config={"base_model_name_or_path": "org/base"})
    with Hub() as hub:
        hub.add("org/base", {"config.json": (tmp_path / "base/config.json").read_bytes()})
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
        assert main(["validate", "./sql", "--policy", policy("allow_sources: ['./*']"), "--strict"]) == 1
        assert "base unchecked: hf://org/base: policy allow_sources" in " ".join(capsys.readouterr().out.split())
        assert hub.count() == 0
        assert main(["validate", "./sql", "--policy", policy("allow_sources: ['./*', 'hf://org/*']")]) == 0
        assert hub.count() > 0
