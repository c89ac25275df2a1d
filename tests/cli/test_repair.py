"""``lora-cli repair`` as operators and CI see it: what it writes, what it says, and what it exits with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import llama_modules, lora_tensors, raw, write_adapter, write_base_config

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "manifests" / "quickstart"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(write_base_config(tmp_path / "base"))


@pytest.fixture
def rslora(tmp_path: Path) -> str:
    """An adapter that SGLang scales wrongly."""
    return str(write_adapter(tmp_path / "rslora", modules=llama_modules(), r=16, config={"use_rslora": True}))


def document(capsys: Capture, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of the one adapter."""
    code = main(["repair", *words, "--format", "json"])
    (adapter,) = json.loads(capsys.readouterr().out)["adapters"]
    return code, adapter["repair"] or adapter["error"]


def validated(folder: Path, base: str, engine: str) -> int:
    return main(["validate", str(folder), "--base", base, "--engine", engine, "-q"])


def test_a_copy_is_written_and_the_adapter_is_left_as_it_is(
    rslora: str, base: str, tmp_path: Path, capsys: Capture
) -> None:
    (Path(rslora) / "tokenizer.json").write_text("{}")
    (Path(rslora) / "optimizer.pt").write_text("not an adapter's")
    before = {path.name: path.read_bytes() for path in Path(rslora).iterdir()}

    code, found = document(capsys, rslora, "--engine", "sglang", "--base", base, "--to", str(tmp_path / "out"))

    assert code == 0
    assert {path.name: path.read_bytes() for path in Path(rslora).iterdir()} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    ]
    assert found["directory"] == str(tmp_path / "out")
    assert (found["before"]["outcome"], found["after"]["outcome"]) == ("serves-wrong", "ok")
    assert found["proof"]["rewritten"] == 0
    assert validated(tmp_path / "out", base, "sglang") == 0
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["use_rslora"]) == (16, 8 * 4, False)
    theirs = load_file(Path(rslora) / "adapter_model.safetensors")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_same_repair_is_the_same_bytes_so_its_digest_can_be_pinned(rslora: str, base: str, tmp_path: Path) -> None:
    written = []
    for to in (tmp_path / "one", tmp_path / "two"):
        assert main(["repair", rslora, "--engine", "sglang", "--base", base, "--to", str(to)]) == 0
        written.append((to / WEIGHTS).read_bytes())
    assert written[0] == written[1]


def test_in_place_all_else_stays_as_it_is(rslora: str, base: str, tmp_path: Path, capsys: Capture) -> None:
    """Also hidden, nested, empty and linked; the modes too."""
    run, folder = tmp_path / "run", tmp_path / "run" / "checkpoint-10"
    run.mkdir()
    (run / "trainer.log").touch()
    Path(rslora).rename(folder)
    for name in (".git", "empty", "checkpoint-5"):
        (folder / name).mkdir()
    for name in (
        ".git/HEAD",
        "checkpoint-5/adapter_model.safetensors",
        "adapter_model_notes.txt",
        "README.md",
        "run.sh",
    ):
        (folder / name).write_text("mine")
    (folder / "run.sh").chmod(0o755)
    (folder / "adapter_config.json").chmod(0o600)
    (folder / "latest").symlink_to("checkpoint-5")
    (tmp_path / "link").symlink_to(folder)

    def listed() -> dict[str, int]:
        return {str(path.relative_to(run)): path.lstat().st_mode for path in run.rglob("*")}

    before = listed() | {f"checkpoint-10/{WEIGHTS}": (folder / "adapter_config.json").stat().st_mode}
    words = ["--engine", "sglang", "--base", base, "--in-place"]

    assert document(capsys, str(run / "checkpoint-latest"), *words)[1]["directory"] == str(folder)

    assert validated(folder, base, "sglang") == 0
    assert listed() == before
    assert (folder / "checkpoint-5" / "adapter_model.safetensors").read_text() == "mine"
    inode = folder.stat().st_ino
    assert document(capsys, str(tmp_path / "link"), *words)[1]["changes"] == []
    assert folder.stat().st_ino == inode
    (folder / "escape").symlink_to("/etc/hostname")
    _, found = document(capsys, str(folder), *words)
    assert found["refusals"]
    assert found["directory"] is None


@pytest.mark.parametrize(("to", "code"), [(["--check"], 3), (["--to", "out"], 0)])
def test_without_a_base_nothing_is_called_ok_that_only_a_base_tells(
    to: list[str], code: int, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [str(QUICKSTART / "misnested"), "--engine", "vllm", *to]

    assert main(["repair", *line]) == code

    told = " ".join(capsys.readouterr().out.split())
    assert "nothing found to repair for vLLM 0.33 before unknown without a base after unknown without a base" in told
    assert "skipped 14 checks no base model was given: LC311" in told
    assert "hint: no base: names and shapes not checked" in told
    assert ("copied" in told, "(without changes)" in told) == (code == 0, code == 0)
    assert main(["repair", str(QUICKSTART / "misnested"), "--engine", "sglang", "--check"]) == 3
    assert " ok" not in capsys.readouterr().out


def test_the_base_that_the_config_names_is_taken_where_it_is_on_this_machine(
    base: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one that a fetch of a manifest has cached; no network is used for it."""
    folder = str(Path(base).parent)
    named = {"use_rslora": True, "base_model_name_or_path": folder}
    adapter = str(write_adapter(tmp_path / "named", modules=llama_modules(), r=16, config=named))
    assert document(capsys, adapter, "--engine", "sglang", "--check")[1]["skipped"] == []
    assert main(["repair", adapter, "--engine", "sglang", "--check"]) == 1
    out, err = capsys.readouterr()
    assert "after   ok" in out
    assert f"base: {folder} (from the adapter's config)" in err

    monkeypatch.chdir(tmp_path)
    config = {"use_rslora": True, "base_model_name_or_path": "org/base"}
    adapter = str(write_adapter(tmp_path / "hub", modules=llama_modules(), r=16, config=config))
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: org/base\nadapters: [{name: a, source: ./hub}]\n"
    Path("set.yaml").write_text(head)
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("org/base", {"config.json": Path(base).read_bytes()})
        assert main(["fetch", "-f", "set.yaml", "--cache-dir", "cache"]) == 0
        hub.requests.clear()
        capsys.readouterr()
        assert main(["repair", adapter, "--engine", "sglang", "--check", "--cache-dir", "cache"]) == 1
        assert "after   ok" in capsys.readouterr().out
        assert main(["repair", adapter, "--engine", "sglang", "--check", "--cache-dir", "other"]) == 1
        assert "unknown without a base" in capsys.readouterr().out
        assert not hub.requests


def test_what_is_wrong_without_a_base_is_told_and_the_rest_is_not_called_ok(rslora: str, capsys: Capture) -> None:
    assert main(["repair", rslora, "--engine", "sglang", "--check"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "before serves wrong after unknown without a base" in told
    assert "names and shapes not checked" in told


def test_what_cannot_be_mended_is_refused_with_what_can_be_done(base: str, tmp_path: Path, capsys: Capture) -> None:
    config = {"init_lora_weights": "pissa"}
    pissa = str(write_adapter(tmp_path / "pissa", modules=llama_modules(), config=config))

    code, found = document(capsys, pissa, "--engine", "vllm@0.33", "--base", base, "--to", str(tmp_path / "out"))

    assert code == 1
    assert "path_initial_model_for_weight_conversion" in found["refusals"][0]["hint"]
    assert not (tmp_path / "out").exists()


def test_what_a_flag_mends_is_named_and_is_no_refusal(base: str, tmp_path: Path, capsys: Capture) -> None:
    wide = str(write_adapter(tmp_path / "wide", modules=llama_modules(), r=64))
    code, found = document(capsys, wide, "--engine", "vllm", "--base", base, "--check")
    assert code == 0
    assert found["flags"][0]["hint"] == "start vLLM with `--max-lora-rank 64`"
    assert main(["repair", wide, "--engine", "vllm", "--base", base, "--check"]) == 0
    assert f"\n\n  {found['flags'][0]['what'][:40]}" in capsys.readouterr().out


@pytest.mark.parametrize(("limit", "said"), [("", "is 16, the default"), (", max_lora_rank: 32", "is 32")])
def test_the_limit_is_that_of_the_manifest(limit: str, said: str, base: str, tmp_path: Path, capsys: Capture) -> None:
    wide = write_adapter(tmp_path / "wide", modules=llama_modules(), r=64)
    head = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {base}\nengine: {{name: vllm{limit}}}\n"
    (tmp_path / "set.yaml").write_text(f"{head}adapters: [{{name: wide, source: {wide}}}]\n")
    _, found = document(capsys, "-f", str(tmp_path / "set.yaml"), "wide", "--check")
    assert said in found["flags"][0]["what"]
    (tmp_path / "set.yaml").write_text((tmp_path / "set.yaml").read_text().replace(limit, ", max_lora_rank: 64"))
    if limit:
        assert document(capsys, "-f", str(tmp_path / "set.yaml"), "wide", "--check")[1]["flags"] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "repair needs --to, --in-place, or --check"),
        (["--to", "out", "--check"], "repair needs --to, --in-place, or --check"),
        (["--to", "full"], "already exists"),
        (["--check", "--dtype", "int8"], "--dtype must be one of float32, float16, bfloat16"),
        (["--check", "--engine", "vlm"], "unknown engine"),
    ],
)
def test_a_wrong_line_is_2_and_says_what_is_wrong(
    words: list[str], says: str, rslora: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    engine = [] if "--engine" in words else ["--engine", "sglang"]

    assert main(["repair", rslora, *engine, *words]) == 2

    assert says in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [("config", 1), ("weights", 1), ("foreign", 1), ("nothing", 3)],
)
def test_what_is_no_adapter_is_told_and_nothing_is_written(
    spoil: str, code: int, rslora: str, tmp_path: Path, capsys: Capture
) -> None:
    if spoil == "config":
        (Path(rslora) / "adapter_config.json").write_text("{")
    elif spoil == "weights":
        weights = Path(rslora) / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    elif spoil == "foreign":
        (Path(rslora) / "adapter_model.safetensors").rename(Path(rslora) / "adapters.safetensors")
    name = rslora if spoil != "nothing" else str(tmp_path / "missing")

    assert main(["repair", name, "--engine", "sglang", "--to", str(tmp_path / "out")]) == code

    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_written_as_safetensors_and_an_unsafe_one_is_not_even_read(
    base: str, tmp_path: Path, capsys: Capture
) -> None:
    folder = write_adapter(tmp_path / "pickled", modules=llama_modules())
    weights = load_file(folder / "adapter_model.safetensors")
    torch.save(weights, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()

    code, found = document(capsys, str(folder), "--engine", "vllm", "--base", base, "--to", str(tmp_path / "out"))

    assert code == 0
    assert found["changes"][0]["step"] == "files"
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], weights[name]) for name in weights) or found["proof"]["rewritten"]

    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"base_model.model.x.lora_A.weight": Hostile()}, folder / "adapter_model.bin")
    assert main(["repair", str(folder), "--engine", "vllm", "--base", base, "--to", str(tmp_path / "other")]) == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "other").exists()


def test_shards_are_joined_and_one_that_is_missing_is_named(base: str, tmp_path: Path, capsys: Capture) -> None:

    folder = write_adapter(tmp_path / "sharded", modules=llama_modules())
    weights = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    names = sorted(weights)
    for number in range(3):
        part = {name: weights[name] for name in names[number::3]}
        save_file(part, folder / f"adapter_model-{number + 1:05}-of-00003.safetensors")
    index = {"weight_map": {name: f"adapter_model-{n % 3 + 1:05}-of-00003.safetensors" for n, name in enumerate(names)}}
    (folder / "adapter_model.safetensors.index.json").write_text(json.dumps(index))

    code, found = document(capsys, str(folder), "--engine", "vllm", "--base", base, "--to", str(tmp_path / "out"))

    assert (code, found["changes"][0]["what"]) == (0, "3 shards joined in adapter_model.safetensors")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], weights[name]) for name in names)
    (folder / "adapter_model-00002-of-00003.safetensors").unlink()
    assert main(["repair", str(folder), "--engine", "vllm", "--base", base, "--to", str(tmp_path / "two")]) == 1
    assert "2 of 3 shards found" in capsys.readouterr().err


def test_a_dtype_that_is_asked_for_is_written_and_one_that_loses_the_values_is_refused(
    base: str, tmp_path: Path, capsys: Capture
) -> None:
    folder = write_adapter(tmp_path / "good", modules=llama_modules())
    words = [str(folder), "--engine", "vllm", "--base", base, "--dtype"]

    code, found = document(capsys, *words, "bfloat16", "--to", str(tmp_path / "half"))
    assert code == 0
    assert 0 < found["proof"]["worst_change"] <= found["proof"]["allowed_change"] < 0.05
    assert {one.dtype for one in load_file(tmp_path / "half" / "adapter_model.safetensors").values()} == {
        torch.bfloat16
    }

    tensors = lora_tensors(llama_modules())
    large = {name: raw(np.full(one.shape, 1e6)) for name, one in tensors.items() if "lora_B" in name}
    loud = write_adapter(tmp_path / "loud", modules=llama_modules(), tensors=large)
    to = str(tmp_path / "never")
    assert main(["repair", str(loud), "--engine", "vllm", "--base", base, "--dtype", "float16", "--to", to]) == 1
    assert "--dtype float32 or bfloat16" in capsys.readouterr().out
    assert not Path(to).exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".never")]


def test_a_set_is_repaired_adapter_by_adapter_into_folders_of_their_names(
    rslora: str, base: str, tmp_path: Path, capsys: Capture
) -> None:
    good = write_adapter(tmp_path / "fine", modules=llama_modules())
    entries = f"{{name: a, source: {rslora}}}, {{name: gone, source: {tmp_path}/nowhere}}, {{name: b, source: {good}}}"
    head = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {base}\nengine: {{name: sglang}}\n"
    (tmp_path / "set.yaml").write_text(f"{head}adapters: [{entries}]\n")
    manifest, out = str(tmp_path / "set.yaml"), tmp_path / "out"
    for words, codes in ((["--check"], [1, 3, 0]), (["--to", str(out)], [0, 3, 0])):
        assert main(["repair", "-f", manifest, *words, "--format", "json"]) == 3
        adapters = json.loads(capsys.readouterr().out)["adapters"]
        assert [one["exit_code"] for one in adapters] == codes
        assert "there is no folder" in adapters[1]["error"]["message"]
        assert out.exists() == (words != ["--check"])
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    assert validated(out / "a", base, "sglang") == 0
    capsys.readouterr()
    assert main(["repair", "-f", manifest, "a", "--check"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 adapter: 1 would be repaired"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a", "--check"], "repair needs an engine"),
        (["a", "b", "--to", "out", "--engine", "vllm"], "several adapters need a manifest"),
        (["--check", "--engine", "vllm"], "there is nothing to repair"),
    ],
)
def test_what_is_missing_is_said(argv: list[str], said: str, capsys: Capture) -> None:
    assert main(["repair", *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_and_is_6(rslora: str, base: str, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "from lora_cli.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["repair", rslora, "--engine", "sglang", "--base", base, "--to", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


def test_the_docs_show_what_it_prints(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    shown = (ROOT / "docs" / "inspect.md").read_text().partition("$ lora-cli repair ")[2].partition("```")[0]
    line, _, printed = shown.partition("\n")
    words = [word if word != "out/zubrowka" else str(tmp_path / "zubrowka") for word in line.split()]

    assert main(["repair", *words]) == 0

    assert capsys.readouterr().out.partition("  written")[0] == printed.partition("  written")[0]


def test_one_cause_in_many_modules_is_told_once(tmp_path: Path, capsys: Capture) -> None:
    adapter = write_adapter(tmp_path / "sql", modules=llama_modules(), config={"rank_pattern": {".*_proj": 16}})
    assert main(["repair", str(adapter), "--engine", "vllm", "--check"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("its rank is") == 1
    assert "and 13 more modules" in told
