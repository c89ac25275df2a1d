"""``lora-cli repair`` as operators and CI see it: what it writes, what it says, and what it exits with."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config

Capture = pytest.CaptureFixture[str]
WEIGHTS = "adapter_model.safetensors"
HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base, and an adapter that SGLang scales wrongly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    write_base_config(Path("base"))
    adapter("rslora", {"use_rslora": True}, r=16)


def adapter(name: str, config: dict[str, Any] | None = None, **more: Any) -> Path:
    return write_adapter(Path(name), modules=llama_modules(), config=config, **more)


def repair(line: str, capsys: Capture) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of the one adapter."""
    capsys.readouterr()
    code = main(["repair", *line.split(), "--format", "json"])
    (found,) = json.loads(capsys.readouterr().out)["adapters"]
    return code, found["repair"] or found["error"]


def said(capsys: Capture) -> str:
    return " ".join("".join(capsys.readouterr()).split())


def is_ok(folder: str, engine: str = "sglang") -> bool:
    return main(["validate", folder, "--base", "base", "--engine", engine, "-q"]) == 0


def content(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_copy_is_written_and_the_adapter_is_left_as_it_is(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same repair is the same bytes, so that its digest can be pinned."""
    Path("rslora/tokenizer.json").write_text("{}")
    Path("rslora/optimizer.pt").write_text("not an adapter's")
    Path("policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: [./rslora]\n")
    before = content("rslora")
    monkeypatch.setenv("LORA_CLI_POLICY", "policy.yaml")
    code, found = repair("rslora --engine sglang --base base --to out", capsys)
    monkeypatch.delenv("LORA_CLI_POLICY")
    assert (code, found["proof"], found["directory"]) == (0, 0, str(Path("out").absolute()))
    assert (found["before"]["outcome"], found["after"]["outcome"]) == ("serves-wrong", "ok")
    assert content("rslora") == before
    assert content("out").keys() == {"adapter_config.json", WEIGHTS, "tokenizer.json"}
    assert is_ok("out")
    written = json.loads(Path("out/adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["use_rslora"]) == (16, 8 * 4, False)
    theirs, ours = load_file(f"rslora/{WEIGHTS}"), load_file(f"out/{WEIGHTS}")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert repair("rslora --engine sglang --base base --to again", capsys)[0] == 0
    assert content("again") == content("out")


def test_in_place_all_else_stays_as_it_is(capsys: Capture) -> None:
    """Also hidden, nested and linked; the modes too."""
    folder = Path("run/checkpoint-10").absolute()
    folder.parent.mkdir()
    shutil.move("rslora", folder)
    (folder / ".git").mkdir()
    for name in (".git/HEAD", "README.md", "run.sh"):
        (folder / name).write_text("mine")
    (folder / "run.sh").chmod(0o755)
    (folder / "adapter_config.json").chmod(0o600)
    (folder / "latest").symlink_to("README.md")

    def listed() -> dict[str, int]:
        return {str(path.relative_to(folder)): path.lstat().st_mode for path in folder.rglob("*")}

    before, options = listed(), "--engine sglang --base base --in-place"
    before[WEIGHTS] = before["adapter_config.json"]
    assert repair(f"run/checkpoint-latest {options}", capsys)[1]["directory"] == str(folder)
    assert is_ok(str(folder))
    assert (listed(), (folder / "latest").read_text()) == (before, "mine")
    assert repair(f"{folder} {options}", capsys)[1]["changes"] == []
    (folder / "escape").symlink_to("/etc/hostname")
    assert repair(f"{folder} {options}", capsys)[1]["refusals"]


def test_validate_marks_what_it_mends_and_ends_with_the_command(capsys: Capture) -> None:
    adapter("plain")
    assert main(["validate", "plain", "--base", "base", "--engine", "sglang"]) == 0
    assert "[*]" not in said(capsys)
    assert main(["validate", "./rslora", "--base", "base", "--engine", "sglang"]) == 1
    told = said(capsys)
    assert "error LC424 module-scales [*]" in told
    command = told.partition("[*] lora-cli ")[2].partition(" 1 adapter: 1 failed, 1 can be repaired")[0]
    assert main(command.split()) == 0
    assert is_ok("DIRECTORY")


@pytest.mark.parametrize(("to", "code"), [("--check", 3), ("--to out", 0)])
def test_without_a_base_nothing_is_called_ok_that_only_a_base_tells(to: str, code: int, capsys: Capture) -> None:
    assert main(["repair", str(adapter("plain")), "--engine", "vllm", *to.split()]) == code
    told = said(capsys)
    assert "before unknown after unknown" in told
    assert "hint: no base: names and shapes not checked" in told
    assert ("(without changes)" in told) == (code == 0)
    assert main(["repair", "rslora", "--engine", "sglang", "--check"]) == 1
    assert "before wrong output after unknown" in said(capsys)


def test_the_base_that_the_config_names_is_taken_where_it_is_on_this_machine(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, or the one that a fetch of a manifest has cached; no network is used for it."""
    adapter("local", {"use_rslora": True, "base_model_name_or_path": str(Path("base").absolute())}, r=16)
    assert repair("local --engine sglang --check", capsys)[1]["skipped"] == []
    adapter("hub", {"use_rslora": True, "base_model_name_or_path": "org/base"}, r=16)
    Path("set.yaml").write_text(HEAD.replace("./base", "org/base") + "adapters: [{name: a, source: ./hub}]\n")
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("org/base", {"config.json": Path("base/config.json").read_bytes()})
        hub.add("org/sql", content("rslora"))
        assert main(["fetch", "-f", "set.yaml"]) == 0
        hub.requests.clear()
        for words, outcome in (("", "ok"), ("--cache-dir other", "unknown")):
            assert repair(f"hub --engine sglang --check {words}", capsys)[1]["after"]["outcome"] == outcome
        assert not hub.requests
        assert repair("org/sql --engine sglang --base base --to out", capsys)[0] == 0
        assert main(["repair", "org/sql", "--engine", "sglang", "--base", "base", "--in-place"]) == 2


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("run",)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"base_model.model.x.lora_A.weight": Hostile()}, folder / "adapter_model.bin")


SPOILT: dict[str, Callable[[Path], object]] = {
    "": lambda folder: None,
    "config": lambda folder: (folder / "adapter_config.json").write_text("{"),
    "weights": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
    "ranks": lambda folder: adapter(folder.name, {"rank_pattern": {".*_proj": 16}}),
    "pissa": lambda folder: adapter(folder.name, {"init_lora_weights": "pissa"}),
    "shards": lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model-00001-of-00002.safetensors"),
    "unsafe": pickled,
}


@pytest.mark.parametrize(
    ("how", "words", "code", "told"),
    [
        ("config", "--engine vllm --to out", 1, "error: "),
        ("weights", "--engine vllm --to out", 1, "error: "),
        ("shards", "--engine vllm --to out", 1, "not all shards are there"),
        ("unsafe", "--engine vllm --to out", 1, "error: "),
        ("ranks", "--engine sglang --to out", 1, "the trained scale is unknown"),
        ("pissa", "--engine vllm@0.33 --to out", 1, "path_initial_model_for_weight_conversion"),
        ("", "--engine vllm", 2, "repair needs --to, --in-place, or --check"),
        ("", "--engine vllm --to base", 2, "already exists"),
        ("", "--check", 2, "repair needs an engine"),
        ("", "b --to out --engine vllm", 2, "several adapters need a manifest"),
    ],
)
def test_what_cannot_be_repaired_is_told_and_nothing_is_written(
    how: str, words: str, code: int, told: str, capsys: Capture
) -> None:
    before = content("base")
    SPOILT[how](Path("rslora"))
    assert main(["repair", "rslora", "--base", "base", *words.split()]) == code
    assert told in said(capsys)
    assert not any(name.startswith((".out", "out", "run")) for name in os.listdir("."))  # noqa: PTH208
    assert content("base") == before


@pytest.mark.parametrize("kind", ["pickle", "shards"])
def test_weights_are_written_in_one_file(kind: str, capsys: Capture) -> None:
    folder = adapter("whole")
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards = {f"adapter_model-{at + 1:05}-of-00003.safetensors": sorted(weights)[at::3] for at in range(3)}
    if kind == "pickle":
        torch.save(weights, folder / "adapter_model.bin")
    else:
        for shard, names in shards.items():
            save_file({name: weights[name] for name in names}, folder / shard)
        index = {name: shard for shard, names in shards.items() for name in names}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
    code, found = repair("whole --engine vllm --base base --to out", capsys)
    assert (code, [change["step"] for change in found["changes"]]) == (0, ["files"])
    assert all(torch.equal(one, weights[name]) for name, one in load_file(f"out/{WEIGHTS}").items())


@pytest.mark.parametrize(("limit", "hint"), [("", "the engine with `--max-lora-rank 64`"), (", max_lora_rank: 64", "")])
def test_what_a_flag_mends_is_named_and_is_no_refusal(limit: str, hint: str, capsys: Capture) -> None:
    """The limit is that of the manifest, else the engine's default."""
    adapter("wide", r=64)
    Path("set.yaml").write_text(f"{HEAD}engine: {{name: vllm{limit}}}\nadapters: [{{name: wide, source: ./wide}}]\n")
    assert main(["repair", "-f", "set.yaml", "--check"]) == 0
    assert hint in said(capsys)
    code, found = repair("-f set.yaml --check", capsys)
    assert (code, found["refusals"], bool(found["flags"])) == (0, [], bool(hint))


def test_a_name_that_is_asked_for_is_written(capsys: Capture) -> None:
    adapter("plain")
    code, found = repair("plain --engine vllm --base base --base-name org/base --to out", capsys)
    assert (code, [change["step"] for change in found["changes"]], found["proof"]) == (0, ["base"], 0)
    assert json.loads(Path("out/adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"


def test_a_set_is_repaired_adapter_by_adapter_into_folders_of_their_names(capsys: Capture) -> None:
    adapter("fine")
    entries = "{name: a, source: ./rslora}, {name: gone, source: ./nowhere}, {name: b, source: ./fine}"
    Path("set.yaml").write_text(f"{HEAD}engine: {{name: sglang}}\nadapters: [{entries}]\n")
    for words, codes in ((["--check"], [1, 3, 0]), (["--to", "out"], [0, 3, 0])):
        assert main(["repair", "-f", "set.yaml", *words, "--format", "json"]) == 3
        adapters = json.loads(capsys.readouterr().out)["adapters"]
        assert [one["exit_code"] for one in adapters] == codes
        assert "there is no folder" in adapters[1]["error"]["message"]
        assert Path("out").exists() == (words != ["--check"])
    assert sorted(path.name for path in Path("out").iterdir()) == ["a", "b"]
    assert is_ok("out/a")
