"""A policy: one file, the same in every command that reads bytes; a violation names its rule."""

from pathlib import Path

import pytest

from tests.cli.running import Run
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base

SET = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> None:
    write_adapter(tmp_path / "sql", modules=llama_modules())
    write_base(tmp_path / "base")


def policy(text: str) -> str:
    Path("policy.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: Policy\n{text}")
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
    "allow_formats": "[pickle]",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("rule", VIOLATED)
def test_a_violation_names_its_rule_and_ends_with_1(
    command: str, rule: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_POLICY", policy(f"{rule}: {VIOLATED[rule]}"))
    assert f"policy {rule}:" in run(COMMANDS[command], 1).text
    if command in {"fetch", "validate", "warm"}:
        monkeypatch.delenv("LORA_CLI_POLICY")
        run(f"{COMMANDS[command]} --policy policy.yaml", 1)


@pytest.mark.parametrize("command", ["fetch", "validate"])
def test_what_is_allowed_passes_and_the_manifests_policy_and_the_file_hold_both(command: str, run: Run) -> None:
    policy("allow_sources: ['./s*']\nmax_bytes: 1MiB\nallow_formats: [safetensors]\n")
    run(f"{COMMANDS[command]} --policy policy.yaml")
    for inside, beside, code in (("1GiB", "1GiB", 0), ("1KiB", "1GiB", 1), ("1GiB", "1KiB", 1)):
        Path("set.yaml").write_text(f"{SET}policy: {{max_bytes: {inside}}}\nadapters: [{{name: sql, source: ./sql}}]\n")
        run(f"{command} -f set.yaml --policy {policy(f'max_bytes: {beside}')}", code)


def test_one_violation_is_told_and_the_others_are_counted(run: Run) -> None:
    assert "more)" not in run(f"fetch ./sql --policy {policy('deny_sources: [./sql]')}", 1).text
    policy("deny_sources: [./sql]\nallow_sources: [./x]\nmax_bytes: 1KiB")
    assert "(and 1 more)" in run("fetch ./sql --policy policy.yaml", 1).text


def test_a_policy_alone_gives_nothing_to_warm(run: Run) -> None:
    assert "nothing to warm" in run(f"warm --policy {policy('max_bytes: 1GiB')}", 2).text


def test_repair_holds_what_the_manifest_says_of_an_adapter(run: Run) -> None:
    for rules, more, code in (
        ("policy: {deny_sources: ['./sql']}\n", "", 1), ("", f", sha256: {'0' * 64}", 5), ("", "", 0),
    ):  # fmt: skip
        Path("set.yaml").write_text(f"{SET}{rules}adapters: [{{name: sql, source: ./sql{more}}}]\n")
        assert not Path("repaired").exists()
        run("repair -f set.yaml --engine vllm --to repaired", code)


def test_a_base_that_only_an_adapter_names_must_be_allowed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    write_adapter(tmp_path / "sql", modules=llama_modules(), config={"base_model_name_or_path": "org/base"})
    with Hub() as hub:
        hub.add("org/base", {"config.json": Path("base/config.json").read_bytes()})
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
        said = run(f"validate ./sql --policy {policy('allow_sources: [./*]')} --strict", 1).text
        assert "base unchecked: hf://org/base: policy allow_sources" in said
        assert hub.count() == 0
        run(f"validate ./sql --policy {policy('allow_sources: [./*, hf://org/*]')}")
        assert hub.count() > 0
