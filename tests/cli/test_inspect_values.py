"""``lora-cli inspect --spectrum`` and ``--diff``: what an adapter's values say, and where there are none at hand."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from lora_cli.cli.main import main
from lora_cli.sources.hub_cache import hub_cache_folder
from tests.conftest import QUICKSTART
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base, write_base_config

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", modules={**llama_modules(), "lm_head": (64, 256)}, dtype="bfloat16")


def inspected(capsys: pytest.CaptureFixture[str], *argv: str | Path, code: int = 0) -> Any:
    """The first adapter of the document."""
    assert main(["inspect", *map(str, argv), "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "lora_cli/inspect/1"
    return document["adapters"][0]


def test_the_spectrum_has_every_module(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spectrum = inspected(capsys, sql, "--spectrum")["spectrum"]
    assert len(spectrum["modules"]) == 15
    first = spectrum["modules"][0]
    assert first | {"norm": 0, "effective_rank": 0, "rank_99": 0, "energy": 0, "singular_values": 0} == {
        "module": Q, "path": Q, "stack": "model.layers", "layer": 0, "kind": "q_proj", "r": 4, "scaling": 2.0,
        "d_out": 64, "d_in": 64, "experts": 1, "norm": 0, "base_norm": None, "relative": None, "effective_rank": 0,
        "rank_99": 0, "energy": 0, "singular_values": 0, "expert_norms": [],
    }  # fmt: skip
    assert first["norm"] == pytest.approx(math.hypot(*first["singular_values"]))
    assert list(first["energy"]) == ["1", "2"]
    assert spectrum["norm"] == pytest.approx(math.hypot(*(one["norm"] for one in spectrum["modules"])))
    assert [one["layer"] for one in spectrum["modules"]].count(None) == 1
    assert (spectrum["without"], spectrum["left_out"], spectrum["unread"]) == ([], [], "")


def test_neither_is_there_unless_it_is_asked_for(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = inspected(capsys, sql)
    assert (one["spectrum"], one["diff"]) == (None, None)
    assert main(["inspect", str(sql)]) == 0
    assert "spectrum" not in capsys.readouterr().out


def test_without_them_no_number_is_reckoned_with() -> None:
    code = f"import sys\nfrom lora_cli.cli.main import main\nmain(['inspect', {str(QUICKSTART / 'pirate')!r}])\n"
    report = "print('numpy' in sys.modules, any('updates' in name for name in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    assert done.stderr == "False False\n"


def test_a_folder_with_weights_as_base_gives_shares(
    sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tmp_path / "base", shards=2)
    spectrum = inspected(capsys, sql, "--spectrum", "--base", base)["spectrum"]
    assert all(one["relative"] == pytest.approx(one["norm"] / one["base_norm"]) for one in spectrum["modules"])
    assert spectrum["base_reason"] == ""
    single = inspected(capsys, sql, "--spectrum", "--base", _one_file(tmp_path / "single"))["spectrum"]
    assert single["relative"] == pytest.approx(spectrum["relative"])


def _one_file(directory: Path) -> Path:
    write_base(directory)
    return directory / "model.safetensors"


def test_a_tied_head_is_measured_against_the_embedding(
    sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=True)
    spectrum = inspected(capsys, sql, "--spectrum", "--base", base)["spectrum"]
    head = next(one for one in spectrum["modules"] if one["module"] == "lm_head")
    assert head["base_norm"] is not None


def test_a_base_without_weights_is_said_and_no_failure(
    sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_base_config(tmp_path / "base")
    for base in (config, config.parent):
        spectrum = inspected(capsys, sql, "--spectrum", "--base", base)["spectrum"]
        assert f"are not in {base} as safetensors" in spectrum["base_reason"]
    assert main(["inspect", str(sql), "--spectrum", "--base", str(config)]) == 0
    assert "base      not compared: the base's weights are not in" in capsys.readouterr().out


def test_a_base_of_the_hub_is_compared_with_where_its_own_client_has_cached_the_weights(
    sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_base(tmp_path / "base", shards=2)
    with Hub() as hub:
        hub.add("acme/base", {path.name: path.read_bytes() for path in base.iterdir()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        spectrum = inspected(capsys, sql, "--spectrum", "--base", "acme/base")["spectrum"]
        assert "are not all on this disk" in spectrum["base_reason"]
        folder = hub_cache_folder()
        for name in sorted(path.name for path in base.iterdir()):
            spectrum = inspected(capsys, sql, "--spectrum", "--base", "acme/base")["spectrum"]
            assert "are not all on this disk" in spectrum["base_reason"]
            hf_hub_download("acme/base", name, endpoint=hub.endpoint, cache_dir=folder, token=False)
        before = len(hub.requests)
        spectrum = inspected(capsys, sql, "--spectrum", "--base", "acme/base")["spectrum"]
        assert all(".safetensors" not in str(request) for request in hub.requests[before:])
    here = inspected(capsys, sql, "--spectrum", "--base", base)["spectrum"]
    assert spectrum["base_reason"] == ""
    assert spectrum["relative"] == here["relative"]


def test_a_damaged_checkpoint_of_the_base_is_said(
    sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tmp_path / "base", shards=2)
    (base / "model-00002-of-00002.safetensors").unlink()
    assert "is missing" in inspected(capsys, sql, "--spectrum", "--base", base)["spectrum"]["base_reason"]


def test_a_remote_adapter_is_read_once_it_was_fetched(
    sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")]
    with Hub() as hub:
        hub.add("acme/sql", {path.name: path.read_bytes() for path in sql.iterdir()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["inspect", "hf://acme/sql", "--spectrum", *cache]) == 3
        out = capsys.readouterr().out
        assert "its values are not on this disk" in out
        assert "lora-cli fetch hf://acme/sql" in out
        unread = inspected(capsys, "hf://acme/sql", "--spectrum", *cache, code=3)["spectrum"]
        assert "not on this disk" in unread["unread"]
        assert unread["norm"] is None

        diff = inspected(capsys, sql, "--diff", "hf://acme/sql", *cache, code=3)["diff"]
        assert diff["word"] == "unknown"
        assert "of B, its values are not on this disk" in diff["reason"]
        assert len(diff["modules"]) == 15

        assert main(["fetch", "hf://acme/sql", *cache]) == 0
        capsys.readouterr()
        assert len(inspected(capsys, "hf://acme/sql", "--spectrum", *cache)["spectrum"]["modules"]) == 15
        assert inspected(capsys, sql, "--diff", "hf://acme/sql", *cache)["diff"]["word"] == "equal"
        assert inspected(capsys, "hf://acme/sql", "--diff", sql, *cache)["diff"]["word"] == "equal"


def test_one_that_is_not_here_does_not_stop_the_others(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(sql), str(sql.parent / "gone"), "--spectrum"]) == 3
    out = capsys.readouterr().out
    assert "15 with an update" in out
    assert "there is no folder" in out


def test_many_adapters_in_processes_have_their_spectra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_adapter(tmp_path / f"a{i}", seed=i) for i in range(26)]
    assert main(["inspect", *map(str, folders), "--spectrum", "--format", "json"]) == 0
    norms = [one["spectrum"]["norm"] for one in json.loads(capsys.readouterr().out)["adapters"]]
    assert len(set(norms)) == 26


def test_a_diff_says_what_the_other_is(sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_adapter(
        tmp_path / "other", modules={**llama_modules(), "lm_head": (64, 256)}, dtype="bfloat16", lora_alpha=16
    )
    diff = inspected(capsys, sql, "--diff", other)["diff"]
    assert (diff["word"], diff["factor"], diff["cosine"]) == ("scaled", pytest.approx(2.0), pytest.approx(1.0))
    assert diff["with"]["source"] == f"file://{other}"
    assert [change["field"] for change in diff["fields"]] == ["lora_alpha"]
    assert diff["fields"][0] | {"only_a": [], "only_b": []} == diff["fields"][0] == {
        "field": "lora_alpha", "effect": "scaling", "a": 8, "b": 16, "only_a": [], "only_b": [],
    }  # fmt: skip
    assert diff["modules"][0] | {"norm_a": 0, "norm_b": 0} == {
        "module": Q, "path": Q, "word": "scaled", "reason": "", "differing": ["scaling"],
        "a": {"r": 4, "scaling": 2.0, "lora_A": [4, 64], "lora_B": [64, 4], "dtypes": ["BF16"]},
        "b": {"r": 4, "scaling": 4.0, "lora_A": [4, 64], "lora_B": [64, 4], "dtypes": ["BF16"]},
        "norm_a": 0, "norm_b": 0, "cosine": 1.0, "difference": 1.0, "factor": 2.0, "rounding": pytest.approx(1e-12),
        "identical": True,
    }  # fmt: skip
    assert main(["inspect", str(sql), "--diff", str(other)]) == 0
    out = capsys.readouterr().out
    assert "scaled: every update of B is 2 times that of A" in out
    assert re.search(r"lora_alpha +changes the scale +8 -> 16", out)


def test_the_real_adapters_of_the_quickstart_are_unrelated(capsys: pytest.CaptureFixture[str]) -> None:
    diff = inspected(capsys, QUICKSTART / "pirate", "--diff", QUICKSTART / "zubrowka")["diff"]
    assert diff["word"] == "unrelated"
    assert abs(diff["cosine"]) < 0.01
    assert len(diff["only_b"]) == 30


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


def test_an_adapter_that_cannot_be_read_ends_with_1_and_says_that_it_has_no_spectrum(
    tmp_path: Path, sql: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_adapter(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"PK")
    assert main(["inspect", str(broken), "--spectrum"]) == 1
    assert "the weights cannot be read" in capsys.readouterr().out
    assert main(["inspect", str(broken), "--diff", str(sql)]) == 1
    assert "of A, the weights cannot be read" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", ["pirate --spectrum", "pirate --diff manifests/quickstart/zubrowka"])
def test_the_docs_show_what_it_prints(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = QUICKSTART.parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "80")
    command = f"$ lora-cli inspect manifests/quickstart/{words}\n"
    shown = (root / "docs" / "inspect.md").read_text(encoding="utf-8").split(command)[1].partition("```")[0]
    assert main(command.split()[2:]) == 0
    out = capsys.readouterr().out
    for part in filter(None, shown.split("…\n")):
        assert part in out
        out = out.partition(part)[2]


@pytest.mark.slow
def test_ten_thousand_modules_without_elements_are_told_in_a_moment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = {
        f"base_model.model.model.layers.{i}.kind{i}.lora_{factor}.weight": {
            "dtype": "F32", "shape": shape, "data_offsets": [0, 0],
        }
        for i in range(10_000)
        for factor, shape in (("A", [4, 0]), ("B", [0, 4]))
    }  # fmt: skip
    folder = write_adapter(tmp_path / "a")
    header = json.dumps(entries).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert main(["inspect", str(folder), "--spectrum"]) == 0
    out = capsys.readouterr().out
    assert "10000 without a spectrum" in out
    assert len(out) < 50_000
