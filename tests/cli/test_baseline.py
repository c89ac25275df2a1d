"""What does not count: accepted findings."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from lora_cli.cli.main import main
from tests.making import llama_modules, lora_tensors, raw, write_adapter, write_base_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``bad`` (LC302), ``loud`` (LC504, a warning) and their base."""
    monkeypatch.chdir(tmp_path)
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "bad", modules=llama_modules(), drop=lambda name: "lora_B" in name)
    loud(1000.0)
    return tmp_path


def loud(factor: float) -> None:
    tensors = lora_tensors(llama_modules())
    larger = {name: raw(np.full(one.shape, factor)) for name, one in tensors.items() if "lora_B" in name}
    write_adapter(Path("loud"), modules=llama_modules(), tensors=larger)


def validate(*argv: str) -> int:
    return main(["validate", *argv, "--base", "base", "--fail-on", "warning"])


def last(capsys: Capture) -> str:
    return " ".join(capsys.readouterr().out.split("\n\n")[-1].split())


def reasons() -> list[str]:
    return [one["reason"] for one in yaml.safe_load(Path("known.yaml").read_text())["findings"]]


def test_only_what_is_new_counts(here: Path, capsys: Capture) -> None:
    assert validate("bad", "loud") == 1
    assert validate("bad", "--write-baseline", "known.yaml") == 0
    assert reasons() == ["bad: adapter_model.safetensors: model.layers.0.self_attn.q_proj"]
    capsys.readouterr()
    assert validate("bad", "--baseline", "known.yaml") == 0
    assert last(capsys) == "1 adapter: 1 accepted"
    assert validate("bad", "loud", "--baseline", "known.yaml") == 1
    assert last(capsys) == "2 adapters: 1 accepted, 1 failed"


def test_a_baseline_holds_for_the_next_version_and_from_a_manifest_by_name(here: Path) -> None:
    Path("set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n  - {name: tone, source: ./loud}\n"
    )
    assert main(["validate", "-f", "set.yaml", "--write-baseline", "known.yaml"]) == 0
    loud(1001.0)
    assert reasons()[0].startswith("tone: ")
    assert main(["validate", "-f", "set.yaml", "--baseline", "known.yaml", "--fail-on", "warning"]) == 0
    assert validate("loud", "--baseline", "known.yaml") == 1


def test_nothing_that_people_wrote_in_it_is_lost(here: Path) -> None:
    assert validate("bad", "--write-baseline", "known.yaml") == 0
    text = Path("known.yaml").read_text()
    written = re.sub("reason: .*", "reason: reviewed by Ada", text)
    Path("known.yaml").write_text(written)
    assert validate("bad", "--write-baseline", "known.yaml") == 0
    assert reasons() == ["reviewed by Ada"]
    assert validate("./gone", "--write-baseline", "known.yaml") == 3
    assert reasons() == ["reviewed by Ada"]
    for other in (written.replace("reason:", "reasom:"), "kind: AdapterSet\n"):
        Path("known.yaml").write_text(other)
        assert validate("bad", "--write-baseline", "known.yaml") == 2
        assert Path("known.yaml").read_text() == other


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("adapter_model.safetensors", b"{", "LC102"),
        ("adapter_config.json", b"{", "LC107"),
        ("adapter_model.safetensors", None, "LC101"),
        ("adapter_config.json", None, "LC106"),
    ],
)
def test_an_adapter_that_cannot_be_read_is_left_out_of_a_new_baseline_and_never_known(
    here: Path, file: str, content: bytes | None, code: str, capsys: Capture
) -> None:
    Path("loud", file).unlink()
    if content is not None:
        Path("loud", file).write_bytes(content)
    assert validate("loud", "bad", "./gone", "--write-baseline", "known.yaml") == 3
    captured = capsys.readouterr()
    assert "3 adapters: 1 accepted, 1 failed, 1 not read" in " ".join(captured.out.split())
    assert captured.err.splitlines() == [
        f"warning: known.yaml: loud is not in the baseline: it could not be read ({code})",
        "warning: known.yaml: gone is not in the baseline: it could not be read",
    ]
    assert all(reason.startswith("bad: ") for reason in reasons())
    assert validate("loud", "--write-baseline", "known.yaml") == validate("loud", "--baseline", "known.yaml") == 1
    assert validate("./gone", "bad", "--baseline", "known.yaml") == 3


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--baseline", "a.json", "--write-baseline", "b.json"], 2, "cannot be used together"),
        (["--baseline", "gone.json"], 3, "there is no baseline gone.json"),
        (["--baseline", "base/config.json"], 2, "--write-baseline"),
        (["--write-baseline", "no/such/known.yaml"], 6, "cannot be written"),
    ],
)
def test_a_wrong_baseline_is_said_before_the_work(
    here: Path, argv: list[str], code: int, said: str, capsys: Capture
) -> None:
    assert validate("bad", *argv) == code

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_an_accepted_finding_has_a_reason_which_a_new_baseline_keeps_and_may_end(here: Path, capsys: Capture) -> None:
    assert validate("loud", "--write-baseline", "known.yaml") == 0
    file = Path("known.yaml")
    file.write_text(re.sub("reason: .*", "reason: alpha is meant to be so", file.read_text()))
    capsys.readouterr()

    assert validate("loud", "--baseline", "known.yaml") == 0
    out = capsys.readouterr()
    assert "alpha is meant to be so: LC504 (known.yaml)" in out.out
    assert out.err == ""
    assert validate("loud", "--baseline", "known.yaml", "--format", "json") == 0
    adapter = json.loads(capsys.readouterr().out)["adapters"][0]
    assert adapter["findings"][0]["accepted"] == {"at": "known.yaml", "reason": "alpha is meant to be so"}
    assert adapter["findings"][0]["fingerprint"] in file.read_text()

    before = file.read_text()
    assert validate("loud", "bad", "--write-baseline", "known.yaml") == 0
    assert before.partition("findings:\n")[2] in file.read_text()

    file.write_text(before + "  until: 2026-01-31\n")
    capsys.readouterr()
    assert validate("loud", "--baseline", "known.yaml") == 1
    said = "warning: known.yaml: LC504 (alpha is meant to be so) is no longer accepted after 2026-01-31\n"
    assert capsys.readouterr().err == said
    file.write_text(before + "  until: 2126-01-31\n")
    assert validate("loud", "--baseline", "known.yaml") == 0
