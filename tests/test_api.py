"""``import lora_cli`` as a program uses it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import assert_type

import pytest

import lora_cli
from lora_cli import Adapter, Result, Snapshot
from lora_cli.errors import NotFound, Refused, UsageError
from tests.cli.test_startup import HEAVY, modules_after
from tests.conftest import QUICKSTART, ROOT
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", modules=llama_modules(["q_proj", "v_proj"]))


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(write_base_config(tmp_path / "base"))


def test_a_remote_adapter_is_fetched_and_then_needs_no_network(adapter: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        with Hub() as hub:
            commit = hub.add("acme/sql", adapter)
            patch.setenv("HF_ENDPOINT", hub.endpoint)
            snapshot = lora_cli.fetch(f"acme/sql@{commit}", cache_dir=tmp_path / "cache")
        again = lora_cli.fetch(f"acme/sql@{commit}", cache_dir=tmp_path / "cache", offline=True)

    assert_type(snapshot, Snapshot)  # make check reads it
    assert again.directory == snapshot.directory
    assert (snapshot.directory / "adapter_model.safetensors").is_file()


def test_an_adapter_is_read_and_judged(adapter: Path, base: str) -> None:
    read = lora_cli.inspect(adapter)
    verdict = lora_cli.validate(str(adapter), base, engines=["vllm@0.33"])

    assert_type(read, Adapter)
    assert_type(verdict, Result)
    assert read.config is not None
    assert (read.config.r, len(read.pairs)) == (4, 4)
    assert (verdict.ok, verdict.applied is None, [outcome.engine for outcome in verdict.engines]) == (
        True,
        False,
        ["vllm"],
    )
    assert not lora_cli.validate(adapter, base, max_lora_rank=2).ok
    for engines, found in (("vllm@0.33", ["vllm"]), ("vllm@0.33, peft", ["vllm", "peft"])):
        assert [one.engine for one in lora_cli.validate(adapter, Path(base), engines=engines).engines] == found
    with pytest.raises(UsageError, match="does not start with a max_lora_rank of 7"):
        lora_cli.validate(adapter, base, engines="vllm", max_lora_rank=7)


def test_a_finding_reads_as_a_sentence_and_a_repr_fits_on_a_screen(tmp_path: Path, base: str) -> None:
    folder = write_adapter(tmp_path / "bad", modules=llama_modules(), drop=lambda name: "lora_B" in name)
    verdict = lora_cli.validate(folder, base)
    (finding, *_) = verdict.findings
    assert finding.message.startswith("there is lora_A without its lora_B")
    place = "adapter_model.safetensors: model.layers.0.self_attn.q_proj"
    assert str(finding) == f"{place}: error LC302 pair-incomplete: {finding.message}"
    assert repr(verdict) == f"Result({str(folder)!r}, ok=False, findings=['LC302'])"
    assert len(repr(lora_cli.inspect(folder))) < 200
    assert not lora_cli.validate(write_adapter(tmp_path / "good")).ok, "its base cannot be read"


def test_what_cannot_be_had_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in (lora_cli.fetch, lora_cli.inspect, lora_cli.validate):
        with pytest.raises(NotFound) as raised:
            verb(str(tmp_path / "gone"))
        assert raised.value.exit_code == 3
    (tmp_path / "policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: ['hf://acme/*']\n")
    monkeypatch.setenv("LORA_CLI_POLICY", str(tmp_path / "policy.yaml"))
    for verb in (lora_cli.fetch, lora_cli.inspect, lora_cli.validate):
        with pytest.raises(Refused, match="allow_sources"):
            verb(str(QUICKSTART / "pirate"))


def test_the_import_costs_nothing_and_a_function_imports_only_what_it_needs() -> None:
    assert not modules_after("import lora_cli") & {*HEAVY, "dataclasses", "inspect", "typer"}
    call = f"lora_cli.validate({str(QUICKSTART / 'pirate')!r}, 'none', values=False)"
    assert not modules_after(f"import lora_cli\n{call}") & {
        "torch", "transformers", "typer", "huggingface_hub", "rich",
    }  # fmt: skip


def test_there_is_what_is_promised() -> None:
    assert {*lora_cli.__all__} <= {*dir(lora_cli)}
    with pytest.raises(AttributeError, match="has no attribute 'fetsh'"):
        lora_cli.fetsh  # noqa: B018


def test_the_example_of_the_docs_runs(tmp_path: Path) -> None:
    (example,) = re.findall(
        r"```python\n(import lora_cli.*?)```", (ROOT / "docs" / "first-ten-minutes.md").read_text(), re.DOTALL
    )

    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"LORA_CLI_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    shown = re.findall(r"# prints (.*)", example)
    assert [line.rstrip() for line in done.stdout.splitlines()] == shown
    assert len(example.splitlines()) <= 11


def test_a_file_that_is_missing_is_an_error_of_the_adapter(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()
    read = lora_cli.inspect(adapter)
    assert (str(read.config_error), read.weights_error) == ("there is no adapter_config.json", None)
    (adapter / "adapter_model.safetensors").rename(adapter / "other.safetensors")
    assert str(lora_cli.inspect(adapter).weights_error) == "there is no adapter_model.safetensors"
