"""``--engine`` of validate and ``lora-cli engines`` as operators and CI see them."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Run
from tests.conftest import QUICKSTART
from tests.making import llama_modules, write_adapter, write_base_config

SMOLLM = str(QUICKSTART / "smollm2-135m")


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> None:
    """A base, and adapters on every linear module that differ in their config or their tensors' names."""
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


def judged(run: Run, line: str, code: int = 0) -> tuple[dict[str, str], dict[str, Any]]:
    """Each engine's outcome, and the findings by their codes."""
    (adapter,) = run(f"validate {line} --format json", code).document["adapters"]
    outcomes = {one["engine"]: one["outcome"] for one in adapter["engines"]}
    return outcomes, {one["code"]: one for one in adapter["findings"]}


def test_what_two_engines_do_for_one_reason_is_one_finding(run: Run) -> None:
    _, found = judged(run, "olora --base base --engine sglang --engine vllm@0.32", 1)
    assert found["LC425"]["effects"] == {"sglang": "wrong output", "vllm@0.32": "rejects"}


@pytest.mark.parametrize(
    ("words", "code", "severity"),
    [
        ("", 1, "error"),
        ("--engine vllm --engine sglang", 0, "warning"),
        ("--engine vllm --engine peft", 1, "error"),
        ("--engine vllm --fail-on warning", 1, "warning"),
    ],
)
def test_an_error_that_every_engine_survives_is_a_warning(words: str, code: int, severity: str, run: Run) -> None:
    assert judged(run, f"bare --base base {words}", code)[1]["LC303"]["severity"] == severity


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("good --engine=", "has no value"),
        ("good --engine vllm@newest", "is not a version of vLLM"),
        ("good --engine vllm --max-lora-rank 20", "--max-lora-rank 32"),
        ("-f set.yaml", "set.yaml:4: engine.name: input should be 'vllm', 'sglang' or 'peft'"),
        (f"{QUICKSTART / 'pirate'} --base {SMOLLM} --tp 2", "--tp 2 does not divide the 9 attention heads"),
    ],
)
def test_a_wrong_engine_ends_with_2(line: str, said: str, run: Run) -> None:
    set_of("engine: {name: sgl-lang}", "good")
    out, err = run(f"validate {line}" + " --base base" * ("--base" not in line), 2)
    assert (out, said in err) == ("", True), err


def set_of(engine: str, name: str) -> None:
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
    Path("set.yaml").write_text(f"{head}{engine}\nadapters: [{{name: {name}, source: ./{name}}}]\n")


def test_an_engine_is_the_manifests_or_the_environments_and_a_flag_overrides_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_of('engine: {name: sglang, version: "0.5.23", max_lora_rank: 4}', "rslora")
    outcomes, found = judged(run, "-f set.yaml", 1)
    assert outcomes == {"sglang": "rejects"}
    assert sorted(one for one in found if found[one]["effects"]) == ["LC401", "LC424"]
    assert judged(run, "-f set.yaml --engine vllm --max-lora-rank 8")[0] == {"vllm": "ok"}
    monkeypatch.setenv("LORA_CLI_ENGINE", "vllm@0.32 sglang")
    assert judged(run, "good --base base")[0] == {"vllm": "ok", "sglang": "ok"}


def test_an_outcome_that_refuses_nothing_is_said_not_to_count(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "validate rslora --base base --engine sglang --engine vllm"
    uncounted = "wrong output 14/14 (not counted)  ok 14/14\n"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    run(f"{line} --select LC1 --format github")
    assert uncounted in Path("summary.md").read_text()
    for words in ("--select LC1", "--write-baseline known.json"):
        assert uncounted in run(f"{line} {words}").out
    assert "not counted" not in run(line, 1).out


def test_the_matrix_fits_the_terminal_and_one_engine_is_explained(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (60, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = run("engines").out.splitlines()
        assert max(map(len, lines)) <= width
        (row,) = [line for line in lines if line.startswith("LC424 module-scales")]
        assert row.split()[-4:] == ["·", "·", "W", "·"]
    out = run("engines sglang").text
    assert out.startswith("SGLang 0.5.23 any rank up to --max-lora-rank")
    assert "LC424: A module has another scale than the config's" in out
    assert "folds the scales in source: lora/lora_config.py (run)" in out
