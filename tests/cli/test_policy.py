"""A policy: one file, the same in every command that reads bytes; a violation names its rule."""

from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"
SET = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql", modules=llama_modules())
    write_base(tmp_path / "base")


def policy(text: str) -> str:
    Path("policy.yaml").write_text(HEAD + text)
    return "policy.yaml"


COMMANDS = {
    "fetch": "fetch ./sql",
    "validate": "validate ./sql --base base",
    "inspect": "inspect ./sql",
    "repair": "repair ./sql --engine vllm --check",
    "warm": "warm ./sql --base base --device cpu",
    "init": "init ./sql -o new.yaml",
}
VIOLATED = {
    "allow_sources": "['hf://acme/*']",
    "deny_sources": "['./sql']",
    "require_pinned": "true",
    "max_bytes": "1KiB",
    "allow_formats": "[gguf]",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("rule", VIOLATED)
def test_a_violation_names_its_rule_and_ends_with_1(
    command: str, rule: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_POLICY", policy(f"{rule}: {VIOLATED[rule]}"))
    assert main(COMMANDS[command].split()) == 1
    assert f"policy {rule}:" in " ".join("".join(capsys.readouterr()).split())
    if command in {"fetch", "validate", "warm"}:
        monkeypatch.delenv("LORA_CLI_POLICY")
        assert main([*COMMANDS[command].split(), "--policy", "policy.yaml"]) == 1


@pytest.mark.parametrize("command", ["fetch", "validate"])
def test_what_is_allowed_passes_and_the_manifests_policy_and_the_file_hold_both(command: str) -> None:
    rules = ("allow_sources: ['./s*']", "max_bytes: 1MiB", "allow_formats: [safetensors]")
    assert main([*COMMANDS[command].split(), "--policy", policy("\n".join(rules))]) == 0
    for inside, beside, code in (("1GiB", "1GiB", 0), ("1KiB", "1GiB", 1), ("1GiB", "1KiB", 1)):
        Path("set.yaml").write_text(f"{SET}policy: {{max_bytes: {inside}}}\nadapters: [{{name: sql, source: ./sql}}]\n")
        assert main([command, "-f", "set.yaml", "--policy", policy(f"max_bytes: {beside}")]) == code


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("deny_source: []", 2, "policy.yaml:3: deny_source: unknown key"),
        ("deny_sources: ['https://me:hunter2@x/*']", 2, "policy.yaml"),
        (None, 3, "policy.yaml"),
    ],
)
def test_a_policy_that_is_wrong_names_the_line_and_no_secret(
    text: str | None, code: int, told: str, capsys: Capture
) -> None:
    if text is not None:
        policy(text)
    for command in ("fetch", "validate"):
        assert main([*COMMANDS[command].split(), "--policy", "policy.yaml"]) == code
        err = capsys.readouterr().err
        assert (told in err, "hunter2" in err) == (True, False)


def test_repair_holds_what_the_manifest_says_of_an_adapter() -> None:
    words = ["repair", "-f", "set.yaml", "--engine", "vllm", "--to", "repaired"]
    for rules, more, code in (
        ("policy: {deny_sources: ['./sql']}\n", "", 1), ("", f", sha256: {'0' * 64}", 5), ("", "", 0),
    ):  # fmt: skip
        Path("set.yaml").write_text(f"{SET}{rules}adapters: [{{name: sql, source: ./sql{more}}}]\n")
        assert (Path("repaired").exists(), main(words)) == (False, code)


def test_a_digest_is_no_pass_before_it_is_known_and_then_it_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for source, rules in (("hf://acme/sql", "policy: {max_bytes: 1GiB}\n"), ("./sql", "")):
        entry = f"{{name: sql, source: {source}, sha256: {'0' * 64}}}"
        Path("set.yaml").write_text(f"{SET}{rules}adapters: [{entry}]\n")
        with Hub() as hub:
            hub.add("acme/sql", Path("sql"))
            set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
            assert main(["inspect", "-f", "set.yaml"]) == (1 if rules else 0)
            assert ("its digest is unknown before it is fetched" in capsys.readouterr().out) == bool(rules)
            assert main(["validate", "-f", "set.yaml"]) == 5
            assert f"the manifest has sha256 {'0' * 64}"[:40] in " ".join(capsys.readouterr().out.split())


def test_a_base_that_only_an_adapter_names_must_be_allowed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
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
