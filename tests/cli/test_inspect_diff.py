"""``lora-cli inspect --diff``: which fields of the config and which tensors of the header differ."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.conftest import QUICKSTART
from tests.making import llama_modules, write_adapter

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", modules={**llama_modules(), "lm_head": (64, 256)}, dtype="bfloat16")


def inspected(capsys: pytest.CaptureFixture[str], *argv: str | Path, code: int = 0) -> Any:
    """The first adapter of the document."""
    assert main(["inspect", *map(str, argv), "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "lora_cli/inspect/1"
    return document["adapters"][0]


def test_no_number_is_reckoned_with() -> None:
    argv = ["inspect", str(QUICKSTART / "pirate"), "--diff", str(QUICKSTART / "zubrowka")]
    code = f"import sys\nfrom lora_cli.cli.main import main\nmain({argv!r})\n"
    report = "print('numpy' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"


def test_a_diff_says_what_the_other_is(sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_adapter(tmp_path / "other", modules=llama_modules(), lora_alpha=16)
    diff = inspected(capsys, sql, "--diff", other)["diff"]
    assert diff["with"]["source"] == f"file://{other}"
    assert [change["name"] for change in diff["fields"]] == ["target_modules", "lora_alpha"]
    assert diff["fields"][1] == {"name": "lora_alpha", "a": 8, "b": 16}
    tensor = f"base_model.model.{Q}.lora_A.weight"
    assert diff["tensors"][0] == {"name": tensor, "a": "BF16 [4, 64]", "b": "F32 [4, 64]"}
    assert [change["b"] for change in diff["tensors"] if "lm_head" in change["name"]] == [None, None]
    assert main(["inspect", str(sql), "--diff", str(other)]) == 0
    out = capsys.readouterr().out
    assert " 8 -> 16\n" in out
    assert "layers.*.self_attn.q_proj.lora_A.weight\n  A BF16 [4, 64], B F32 [4, 64], number 2\n" in out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["{sql}", "{sql}/../b", "--diff", "{sql}"], 2, "--diff compares one adapter with another"),
        (["{sql}", "--diff", "{sql}/../gone"], 3, "there is no folder"),
        (["{sql}", "--diff", ""], 2, ""),
        (["{sql}", "--diff"], 2, "requires an argument"),
        (["{sql}", "--diff", "oci://registry"], 2, ""),
        (["{sql}", "--diff", "{sql}/.."], 1, "contains no adapter weights"),
        (["{sql}", "--diff", "{broken}"], 1, "adapter_model.safetensors"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_so(
    argv: list[str], code: int, said: str, sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_adapter(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"PK")
    assert main(["inspect", *(word.format(sql=sql, broken=broken) for word in argv)]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_an_adapter_that_cannot_be_read_ends_with_1_and_its_header_is_not_compared(
    tmp_path: Path, sql: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_adapter(tmp_path / "broken", lora_alpha=16)
    (broken / "adapter_model.safetensors").write_bytes(b"PK")
    diff = inspected(capsys, broken, "--diff", sql, code=1)["diff"]
    assert ([change["name"] for change in diff["fields"]], diff["tensors"]) == (["target_modules", "lora_alpha"], None)
    assert main(["inspect", str(broken), "--diff", str(sql)]) == 1
    assert "header       not compared" in capsys.readouterr().out


def test_the_docs_show_what_it_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = QUICKSTART.parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "80")
    command = "$ lora-cli inspect manifests/quickstart/pirate --diff manifests/quickstart/zubrowka\n"
    shown = (root / "docs" / "inspect.md").read_text(encoding="utf-8").split(command)[1].partition("```")[0]
    assert main(command.split()[2:]) == 0
    out = capsys.readouterr().out
    for part in filter(None, shown.split("…\n")):
        assert part in out
        out = out.partition(part)[2]
