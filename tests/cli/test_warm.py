"""``lora-cli warm`` of a process of its own, as an operator and an init container see it."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.cli.main import main
from tests.cli.running import Run
from tests.hf_variables import set_variables
from tests.making import (
    HIDDEN,
    Q_PROJ,
    llama_modules,
    write_adapter,
    write_base,
    write_base_config,
)
from tests.warm.families import save_model

STAGES = ["fetch", "validate", "read", "slot", "proof"]

Warm = Callable[..., tuple[int, dict[str, Any]]]

QUERIES = llama_modules(["q_proj"])


@pytest.fixture
def warm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Warm:
    """Run ``warm --format json`` with a cache of its own; gives the exit code and the document."""

    def run(*argv: object) -> tuple[int, dict[str, Any]]:
        words = ["--cache-dir", str(tmp_path / "cache"), "warm", *map(str, argv), "--format", "json"]
        code = main([*words, "--device", "cpu"])
        return code, json.loads(capsys.readouterr().out)

    return run


def refused(capsys: pytest.CaptureFixture[str], argv: Sequence[str]) -> tuple[int, str]:
    code = main(argv)
    said = capsys.readouterr()
    assert said.out == ""
    return code, said.err


def test_every_adapter_is_reported_in_order_and_a_broken_one_stops_no_other(tmp_path: Path, warm: Warm) -> None:
    write_base(tmp_path / "base")
    first = write_adapter(tmp_path / "first", modules=llama_modules(), r=6)
    broken = write_adapter(tmp_path / "broken", modules=llama_modules(), drop=lambda name: "lora_B" in name)
    sizes = {f"base_model.model.{module}.lora_magnitude_vector": np.ones(HIDDEN, np.float32) for module in QUERIES}
    dora = write_adapter(tmp_path / "dora", modules=QUERIES, config={"use_dora": True}, tensors=sizes)
    huge = {f"base_model.model.{Q_PROJ}.lora_B.weight": np.full((HIDDEN, 4), 1e38, np.float32)}
    overflows = write_adapter(tmp_path / "overflows", modules=QUERIES, tensors=huge)
    large = write_adapter(tmp_path / "large", modules=QUERIES, r=32)
    last = write_adapter(tmp_path / "last", modules=QUERIES, seed=2)
    file = tmp_path / "lora.prom"
    asked = (first, broken, dora, tmp_path / "nowhere", overflows, large, last)
    code, document = warm(*asked, "--base", tmp_path / "base", "--metrics-file", file, "--max-lora-rank", 16)
    reports = document["adapters"]
    assert document["schema"] == "lora_cli/warm/1"
    assert [report["name"] for report in reports] == list(map(str, asked))
    assert [report["exit_code"] for report in reports] == [0, 1, 1, 3, 1, 1, 0]
    assert [report["stage"] for report in reports] == ["", "validate", "read", "fetch", "proof", "validate", ""]
    assert code == 3
    for report in (reports[0], reports[6]):
        assert list(report["stage_ms"]) == STAGES
        assert report["proof"]["holds"] is True
        assert report["proof"]["weights"] == "base"
        assert len(report["digest"]) == 64
    assert (reports[0]["applied"], reports[0]["rank"]) == ("14/14", 6)
    assert reports[1]["error"].startswith("LC")
    assert "DoRA" in reports[2]["error"]
    assert all(report["hint"] for report in reports[1:4])
    # Values that validation cannot foresee fail the proof.
    assert reports[4]["error"] == f"the proof failed: {Q_PROJ}: the composed output is not finite"
    assert_counted(file, broken)


def assert_counted(file: Path, broken: Path) -> None:
    """The metrics of that run, as they are written for a collector."""
    lines = dict(line.rpartition(" ")[::2] for line in file.read_text().splitlines() if not line.startswith("#"))
    assert float(lines["lora_cli_loads_total"]) == 2
    assert float(lines['lora_cli_load_failures_total{stage="validate"}']) == 2
    assert float(lines[f'lora_cli_adapter_failed{{adapter="{broken}",rule="LC302"}}']) == 1
    assert float(lines['lora_cli_load_seconds_total{stage="proof"}']) > 0


@pytest.mark.usefixtures("judged_adapters")
@pytest.mark.parametrize("flag", ["", "-v", "-q"])
def test_times_and_stages_are_told_to_those_who_ask_for_them_and_quiet_ones_what_is_wrong(flag: str, run: Run) -> None:
    out, err = run(f"warm good bad --base base --device cpu {flag}", 1)
    assert "LC302" in out
    assert any(line.startswith("good") for line in out.splitlines()) == (flag != "-q")
    assert ("milliseconds" in out) == (flag == "-v")
    assert ({"good: read", "good: slot", "good: proof"} <= {*err.splitlines()}) == (flag == "-v")


def test_a_manifest_names_base_limits_and_pins_and_without_a_checkpoint_the_weights_are_not_the_bases(
    tmp_path: Path, warm: Warm
) -> None:
    """Its relative paths are its own."""
    write_base_config(tmp_path / "set/base")
    for number in range(3):
        write_adapter(tmp_path / f"set/a{number}", modules=QUERIES, seed=number)
    limits = "{name: vllm, max_loras: 2, max_cpu_loras: 100000, max_lora_rank: 512}"
    entries = "{name: zero, source: ./a0, keep_loaded: true}, {name: one, source: ./a1}, {name: two, source: ./a2}"
    (tmp_path / "set/set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nengine: {limits}\nadapters: [{entries}]\n"
    )
    code, document = warm("-f", tmp_path / "set/set.yaml")
    assert code == 0
    told = [(report["name"], report["error"], report["proof"]["weights"]) for report in document["adapters"]]
    assert told == [(name, "", "synthetic") for name in ("zero", "one", "two")]


def test_a_base_of_the_hub_is_read_from_its_clients_cache(
    tmp_path: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, commit = tmp_path / "hf/hub/models--acme--tiny", "5" * 40
    save_model(tmp_path / "base", "llama")
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    for number, file in enumerate(path for path in (tmp_path / "base").iterdir() if path.is_file()):
        blob = repository / "blobs" / f"{number:040x}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(blob)
    set_variables(monkeypatch, HF_HOME=str(tmp_path / "hf"), HF_ENDPOINT="http://127.0.0.1:9")
    adapter = write_adapter(tmp_path / "one", modules=QUERIES, config={"base_model_name_or_path": "acme/tiny"})
    code, document = warm(adapter, "--forward", "model", "--offline")
    (report,) = document["adapters"]
    assert (code, report["stage"], report["proof"]["holds"]) == (0, "", True)
    assert report["moved"] is not None
    assert "model" in report["stage_ms"]
    command = [sys.executable, "-m", "lora_cli", "warm", str(adapter), "--forward", "model", "--device", "cpu"]
    done = subprocess.run([*command, "--offline"], capture_output=True, text=True, check=True)
    assert "leaked" not in done.stderr, "what torch imports has ended before its process"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a", "--base", "b", "--serve", "--status"], "--serve and --status cannot be used together"),
        (["--base", "b"], "there is nothing to warm"),
        (["a", "--base", "b", "--max-loras", "4", "--max-cpu-loras", "2"], "less than max_loras"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_with_it(
    capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    code, err = refused(capsys, ["warm", *argv])
    assert code == 2
    assert said in err


def test_a_base_that_is_not_there_is_said_before_anything_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write_adapter(tmp_path / "a", modules=QUERIES)
    cache = tmp_path / "cache"
    argv = ["--cache-dir", str(cache), "warm", str(adapter), "--base", str(tmp_path / "none")]
    assert refused(capsys, argv)[0] == 3
    assert not cache.exists()


def test_two_of_several_bases_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [write_adapter(tmp_path / name, config={"base_model_name_or_path": f"acme/{name}"}) for name in "xyz"]
    code, err = refused(capsys, ["warm", *map(str, made)])
    assert (code, "several bases: acme/x" in err, "acme/y" in err, "acme/z" in err) == (2, True, True, False)
