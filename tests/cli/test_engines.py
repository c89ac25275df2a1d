"""``--engine`` of validate and ``lora-cli engines`` as operators and CI see them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.engines import ENGINES
from lora_cli.finding import ENGINE_NAMES
from tests.conftest import QUICKSTART
from tests.making import llama_modules, write_adapter, write_base_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(write_base_config(tmp_path / "base"))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., str]:
    """An adapter on every linear module, with changes to its config."""

    def write(name: str, *, r: int = 8, prefix: str = "base_model.model.", **config: Any) -> str:
        directory = tmp_path / name
        return str(write_adapter(directory, modules=llama_modules(), r=r, prefix=prefix, config=config))

    return write


def judged(capsys: Capture, *argv: str) -> tuple[int, dict[str, Any]]:
    code = main(["validate", *argv, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


def outcomes(document: dict[str, Any]) -> dict[str, str]:
    return {one["engine"]: one["outcome"] for one in document["adapters"][0]["engines"]}


def test_what_two_engines_do_for_one_reason_is_one_finding(
    made: Callable[..., str], base: str, capsys: Capture
) -> None:
    changed = made("changed", init_lora_weights="olora")

    _, document = judged(capsys, changed, "--base", base, "--engine", "sglang", "--engine", "vllm@0.32")
    (found,) = (one for one in document["adapters"][0]["findings"] if one["code"] == "LC425")
    assert found["effects"] == {"sglang": "serves-wrong", "vllm@0.32": "rejects"}


def test_an_error_that_every_engine_survives_is_a_warning(made: Callable[..., str], base: str, capsys: Capture) -> None:
    bare = made("bare", prefix="")

    assert judged(capsys, bare, "--base", base)[0] == 1
    code, document = judged(capsys, bare, "--base", base, "--engine", "vllm", "--engine", "sglang")
    found = {one["code"]: one["severity"] for one in document["adapters"][0]["findings"]}
    assert (code, found["LC303"]) == (0, "warning")
    assert document["adapters"][0]["engines"][0]["applied"] == {"matched": 14, "total": 14}
    assert judged(capsys, bare, "--base", base, "--engine", "vllm", "--fail-on", "warning")[0] == 1
    code, document = judged(capsys, bare, "--base", base, "--engine", "vllm", "--engine", "peft")
    assert code == 1
    assert "LC303" in {one["code"] for one in document["adapters"][0]["findings"] if one["severity"] == "error"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--engine", "vlm"], "did you mean vllm?"),
        (["--engine", ""], "has no value"),
        (["--engine", "vllm@newest"], "is not a version of vLLM"),
        (["--engine", "vllm", "--max-lora-rank", "20"], "--max-lora-rank 32"),
        (["--engine", "vllm", "--tp", "0"], "--tp"),
    ],
)
def test_a_wrong_engine_ends_with_2(
    argv: list[str], said: str, made: Callable[..., str], base: str, capsys: Capture
) -> None:
    assert main(["validate", made("good"), "--base", base, *argv]) == 2

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_a_manifests_engine_is_the_default_and_a_flag_overrides_it(
    made: Callable[..., str], base: str, tmp_path: Path, capsys: Capture
) -> None:
    made("sql", use_rslora=True)
    file = tmp_path / "set.yaml"
    file.write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
        'engine: {name: sglang, version: "0.5.23", max_lora_rank: 4}\nadapters: [{name: sql, source: ./sql}]\n'
    )

    code, document = judged(capsys, "-f", str(file))
    assert (code, outcomes(document)) == (1, {"sglang": "rejects"})
    codes = [one["code"] for one in document["adapters"][0]["findings"] if one["effects"]]
    assert sorted(codes) == ["LC401", "LC424"]
    code, document = judged(capsys, "-f", str(file), "--engine", "vllm", "--max-lora-rank", "8")
    assert (code, outcomes(document)) == (0, {"vllm": "ok"})


def test_a_manifests_unknown_engine_is_its_error(
    made: Callable[..., str], base: str, tmp_path: Path, capsys: Capture
) -> None:
    made("sql")
    file = tmp_path / "set.yaml"
    file.write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nengine: {name: sgl-lang}\n"
        "adapters: [{name: sql, source: ./sql}]\n"
    )

    assert main(["validate", "-f", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}:4: engine.name: input should be 'vllm', 'sglang' or 'peft'" in said
    assert "did you mean sglang?" in said
    assert main(["fetch", "-f", str(file), "--dry-run"]) == 2


def test_a_manifest_knows_every_engine() -> None:
    assert list(ENGINES) == list(ENGINE_NAMES)


def test_the_environment_names_the_engine(
    made: Callable[..., str], base: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_ENGINE", "vllm@0.32 sglang")

    code, document = judged(capsys, made("good"), "--base", base)
    assert (code, outcomes(document)) == (0, {"vllm": "ok", "sglang": "ok"})


def test_an_outcome_that_refuses_nothing_is_said_not_to_count(
    made: Callable[..., str], base: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["validate", made("rslora", use_rslora=True), "--base", base, "--engine", "sglang", "--engine", "vllm"]
    uncounted = "  serves wrong  14/14\n    not counted: all findings are ignored or baselined\n  vLLM"

    assert main([*line, "--select", "LC1"]) == 0
    assert uncounted in capsys.readouterr().out
    summary = Path(base).with_name("summary.md")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert main([*line, "--select", "LC1", "--format", "github"]) == 0
    assert "| serves wrong (does not count) | ok |" in summary.read_text()
    capsys.readouterr()
    assert main(line) == 1
    assert "does not count" not in capsys.readouterr().out
    assert main([*line, "--write-baseline", str(Path(base).with_name("known.json"))]) == 0
    assert uncounted in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "300")
    assert main([*line, made("plain"), "--ignore", "LC424"]) == 0
    assert "serves wrong 14/14 (not counted)  ok 14/14" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80])
def test_the_matrix_fits_the_terminal(width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["engines"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    row = next(number for number, line in enumerate(lines) if line.startswith("LC424 module-scales"))
    assert lines[row].split()[-4:] == ["·", "·", "W", "·"]


def test_one_engine_is_explained(capsys: Capture) -> None:
    assert main(["engines", "sglang"]) == 0

    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("SGLang 0.5.23 any rank up to --max-lora-rank")
    assert "LC424: A module has another scale than the config's" in out
    assert "folds the scales in source: lora/lora_config.py (run)" in out
    assert main(["engines", "triton"]) == 2


def test_the_docs_show_what_it_prints(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    root = QUICKSTART.parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "80")
    shown = (root / "docs" / "validate.md").read_text(encoding="utf-8").split("--engine sglang --engine vllm\n")[1]

    words = ["validate", "manifests/quickstart/zubrowka", "--base", "manifests/quickstart/smollm2-135m"]
    assert main([*words, "--engine", "sglang", "--engine", "vllm"]) == 1
    assert capsys.readouterr().out == shown.partition("```")[0]


def test_a_tensor_parallel_size_that_does_not_divide_the_heads_is_refused(capsys: Capture) -> None:
    """SmolLM2-135M has nine: no engine starts with two GPUs."""
    argv = ["validate", str(QUICKSTART / "pirate"), "--base", str(QUICKSTART / "smollm2-135m"), "--engine", "vllm"]
    assert main([*argv, "--tp", "2"]) == 2
    assert "--tp 2 does not divide the 9 attention heads" in capsys.readouterr().err
    assert main([*argv, "--tp", "3"]) == 0


def test_a_stray_weights_file_is_a_change_of_the_repair(tmp_path: Path, capsys: Capture) -> None:
    """What is left behind is what fixes it, so that ``--check`` does not say that there is nothing to do."""
    shutil.copytree(QUICKSTART / "pirate", tmp_path / "dup")
    shutil.copy(QUICKSTART / "zubrowka" / "adapter_model.safetensors", tmp_path / "dup" / "model.safetensors")
    words = ["repair", str(tmp_path / "dup"), "--base", str(QUICKSTART / "smollm2-135m"), "--engine", "sglang"]
    assert main([*words, "--check"]) == 1
    assert "without model.safetensors" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--to", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
