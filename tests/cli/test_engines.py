"""``--engine`` of validate and ``lora-cli engines`` as operators and CI see them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.engines import ENGINES
from lora_cli.finding import ENGINE_NAMES
from tests.conftest import QUICKSTART
from tests.making import llama_modules, write_adapter, write_base_config

Capture = pytest.CaptureFixture[str]
SMOLLM = str(QUICKSTART / "smollm2-135m")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base, and adapters on every linear module that differ in their config or their tensors' names."""
    monkeypatch.chdir(tmp_path)
    write_base_config(tmp_path / "base")
    configs: dict[str, dict[str, Any]] = {
        "good": {},
        "olora": {"init_lora_weights": "olora"},
        "rslora": {"use_rslora": True},
        "bare": {},
    }
    for name, config in configs.items():
        prefix = "" if name == "bare" else "base_model.model."
        write_adapter(tmp_path / name, modules=llama_modules(), r=8, prefix=prefix, config=config)


def judged(capsys: Capture, line: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """The exit code, each engine's outcome, and the findings by their codes."""
    capsys.readouterr()
    code = main(["validate", *line.split(), "--format", "json"])
    (adapter,) = json.loads(capsys.readouterr().out)["adapters"]
    outcomes = {one["engine"]: one["outcome"] for one in adapter["engines"]}
    return code, outcomes, {one["code"]: one for one in adapter["findings"]}


def test_what_two_engines_do_for_one_reason_is_one_finding(capsys: Capture) -> None:
    _, _, found = judged(capsys, "olora --base base --engine sglang --engine vllm@0.32")
    assert found["LC425"]["effects"] == {"sglang": "serves-wrong", "vllm@0.32": "rejects"}


def test_an_error_that_every_engine_survives_is_a_warning(capsys: Capture) -> None:
    for engines, code, severity in (("", 1, "error"), ("vllm sglang", 0, "warning"), ("vllm peft", 1, "error")):
        words = " ".join(f"--engine {engine}" for engine in engines.split())
        found = judged(capsys, f"bare --base base {words}")
        assert (found[0], found[2]["LC303"]["severity"]) == (code, severity)
    assert judged(capsys, "bare --base base --engine vllm --fail-on warning")[0] == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("good --engine vlm", "did you mean vllm?"),
        ("good --engine=", "has no value"),
        ("good --engine vllm@newest", "is not a version of vLLM"),
        ("good --engine vllm --max-lora-rank 20", "--max-lora-rank 32"),
        ("good --engine vllm --tp 0", "--tp"),
        ("-f set.yaml", "set.yaml:4: engine.name: input should be 'vllm', 'sglang' or 'peft'"),
        (f"{QUICKSTART / 'pirate'} --base {SMOLLM} --tp 2", "--tp 2 does not divide the 9 attention heads"),
    ],
)
def test_a_wrong_engine_ends_with_2(line: str, said: str, capsys: Capture) -> None:
    set_of("engine: {name: sgl-lang}", "good")
    assert main(["validate", "--base", "base", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True), err


def set_of(engine: str, name: str) -> None:
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
    Path("set.yaml").write_text(f"{head}{engine}\nadapters: [{{name: {name}, source: ./{name}}}]\n")


def test_a_manifests_engine_and_limits_are_the_default_and_a_flag_overrides_them(capsys: Capture) -> None:
    assert list(ENGINES) == list(ENGINE_NAMES)
    set_of('engine: {name: sglang, version: "0.5.23", max_lora_rank: 4}', "rslora")
    code, outcomes, found = judged(capsys, "-f set.yaml")
    assert (code, outcomes) == (1, {"sglang": "rejects"})
    assert sorted(one for one in found if found[one]["effects"]) == ["LC401", "LC424"]
    code, outcomes, _ = judged(capsys, "-f set.yaml --engine vllm --max-lora-rank 8")
    assert (code, outcomes) == (0, {"vllm": "ok"})


def test_the_environment_names_the_engine(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_ENGINE", "vllm@0.32 sglang")
    assert judged(capsys, "good --base base")[:2] == (0, {"vllm": "ok", "sglang": "ok"})


def test_an_outcome_that_refuses_nothing_is_said_not_to_count(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["validate", "rslora", *["--base", "base", "--engine", "sglang", "--engine", "vllm"]]
    uncounted = "wrong output 14/14 (not counted)  ok 14/14\n"
    assert main([*line, "--select", "LC1"]) == 0
    assert uncounted in capsys.readouterr().out
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert main([*line, "--select", "LC1", "--format", "github"]) == 0
    assert uncounted in Path("summary.md").read_text()
    assert main([*line, "--write-baseline", "known.json"]) == 0
    assert uncounted in capsys.readouterr().out
    assert main(line) == 1
    assert "not counted" not in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "300")
    assert main([*line, "good", "--ignore", "LC424"]) == 0
    assert uncounted in capsys.readouterr().out


def test_the_matrix_fits_the_terminal_and_one_engine_is_explained(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (60, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["engines"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        row = next(number for number, line in enumerate(lines) if line.startswith("LC424 module-scales"))
        assert lines[row].split()[-4:] == ["·", "·", "W", "·"]
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
    shown = (root / "docs" / "validate.md").read_text().split("--engine sglang --engine vllm\n")[1]
    words = ["validate", "manifests/quickstart/zubrowka", "--base", "manifests/quickstart/smollm2-135m"]
    assert main([*words, "--engine", "sglang", "--engine", "vllm"]) == 1
    assert capsys.readouterr().out == shown.partition("```")[0]


def test_a_stray_weights_file_is_a_change_of_the_repair(capsys: Capture) -> None:
    """What is left behind is what fixes it, so that ``--check`` does not say that there is nothing to do."""
    shutil.copytree(QUICKSTART / "pirate", "dup")
    shutil.copy(QUICKSTART / "zubrowka" / "adapter_model.safetensors", "dup/model.safetensors")
    words = ["repair", "dup", "--base", SMOLLM, "--engine", "sglang"]
    assert main([*words, "--check"]) == 1
    assert "without model.safetensors" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--to", "out"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
