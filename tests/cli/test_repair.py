"""``lora-cli repair`` as operators and CI see it: what it writes, what it says, and what it exits with."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.running import Run
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config

WEIGHTS = "adapter_model.safetensors"
HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
SGLANG = "--engine sglang --base base"


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> None:
    """The base, and an adapter that SGLang scales wrongly."""
    write_base_config(tmp_path / "base")
    adapter("rslora", {"use_rslora": True}, r=16)


def adapter(name: str, config: dict[str, Any] | None = None, **more: Any) -> Path:
    return write_adapter(Path(name), modules=llama_modules(), config=config, **more)


def repair(run: Run, words: str, code: int = 0) -> dict[str, Any]:
    """The report of the one adapter."""
    (found,) = run(f"repair {words} --format json", code).document["adapters"]
    report: dict[str, Any] = found["repair"]
    return report


def content(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_copy_is_written_and_the_adapter_is_left_as_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same repair is the same bytes, so that its digest can be pinned."""
    Path("rslora/tokenizer.json").write_text("{}")
    Path("rslora/optimizer.pt").write_text("not an adapter's")
    Path("policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: [./rslora]\n")
    before = content("rslora")
    with monkeypatch.context() as policed:
        policed.setenv("LORA_CLI_POLICY", "policy.yaml")
        found = repair(run, f"rslora {SGLANG} --to out")
    assert (found["proof"], found["directory"]) == (0, f"{Path.cwd()}/out")
    assert (found["before"]["outcome"], found["after"]["outcome"]) == ("wrong output", "ok")
    assert content("rslora") == before
    assert content("out").keys() == {"adapter_config.json", WEIGHTS, "tokenizer.json"}
    run(f"validate out {SGLANG}")
    written = json.loads(Path("out/adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["use_rslora"]) == (16, 8 * 4, False)
    theirs, ours = load_file(f"rslora/{WEIGHTS}"), load_file(f"out/{WEIGHTS}")
    assert all(torch.equal(ours[name], one) for name, one in theirs.items())
    repair(run, f"rslora {SGLANG} --to again")
    assert content("again") == content("out")


def test_in_place_all_else_stays_as_it_is(run: Run) -> None:
    """Also hidden, nested and linked; the modes and the owner too."""
    folder = Path("run/checkpoint-10").absolute()
    folder.parent.mkdir()
    Path("rslora").rename(folder)
    (folder / ".git").mkdir()
    for name in (".git/HEAD", "README.md", "run.sh"):
        (folder / name).write_text("mine")
    (folder / "run.sh").chmod(0o755)
    (folder / "adapter_config.json").chmod(0o600)
    (folder / "latest").symlink_to("README.md")
    for path in (folder, *folder.rglob("*")) if os.geteuid() == 0 else ():
        os.chown(path, 1234, 1234, follow_symlinks=False)

    def listed() -> dict[str, tuple[int, int]]:
        found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
        return {str(path.relative_to(folder)): (one.st_mode, one.st_uid) for path, one in found.items()}

    before = listed()
    before[WEIGHTS] = before["adapter_config.json"]
    assert repair(run, f"run/checkpoint-latest {SGLANG} --in-place")["directory"] == str(folder)
    run(f"validate {folder} {SGLANG}")
    assert (listed(), (folder / "latest").read_text()) == (before, "mine")


def test_validate_marks_what_it_mends_and_ends_with_the_command(run: Run) -> None:
    adapter("plain")
    assert "[*]" not in run(f"validate plain {SGLANG}").text
    told = run(f"validate ./rslora {SGLANG}", 1).text
    assert "error LC424 module-scales [*]" in told
    run(told.partition("[*] lora-cli ")[2].partition(" 1 adapter: 1 failed, 1 can be repaired")[0])
    run(f"validate DIRECTORY {SGLANG}")
    adapter("other", {"use_rslora": True}, r=16)
    told = run(f"validate ./rslora ./other {SGLANG}", 1).text
    assert (told.count("[*] lora-cli repair"), "repair REF" in told) == (1, True)


@pytest.mark.parametrize(("to", "code"), [("--check", 3), ("--to out", 0)])
def test_without_a_base_nothing_is_called_ok_that_only_a_base_tells(to: str, code: int, run: Run) -> None:
    adapter("plain")
    told = run(f"repair plain --engine vllm {to}", code).text
    assert "before unknown after unknown" in told
    assert ("(without changes)" in told) == (code == 0)
    assert "before wrong output after unknown" in run("repair rslora --engine sglang --check", 1).text


def test_the_base_that_the_config_names_is_taken_where_it_is_on_this_machine(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, or the one that a fetch of a manifest has cached; no network is used for it."""
    check = "--engine sglang --check"
    adapter("local", {"use_rslora": True, "base_model_name_or_path": str(Path("base").absolute())}, r=16)
    assert repair(run, f"local {check}", 1)["skipped"] == []
    adapter("hub", {"use_rslora": True, "base_model_name_or_path": "org/base"}, r=16)
    Path("set.yaml").write_text(HEAD.replace("./base", "org/base") + "adapters: [{name: a, source: ./hub}]\n")
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("org/base", {"config.json": Path("base/config.json").read_bytes()})
        run("fetch -f set.yaml")
        hub.requests.clear()
        assert repair(run, f"hub {check}", 1)["after"]["outcome"] == "ok"
        assert repair(run, f"hub {check} --cache-dir other", 1)["after"]["outcome"] == "unknown"
        assert not hub.requests


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("run",)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"base_model.model.x.lora_A.weight": Hostile()}, folder / "adapter_model.bin")


SPOILT: dict[str, Callable[[Path], object]] = {
    "": lambda folder: None,
    "ranks": lambda folder: adapter(folder.name, {"rank_pattern": {".*_proj": 16}}),
    "unsafe": pickled,
}


@pytest.mark.parametrize(
    ("how", "words", "code", "told"),
    [
        ("unsafe", "--engine vllm --to out", 1, "error: "),
        ("ranks", "--engine sglang --to out", 1, "the trained scale is unknown"),
        ("", "--engine vllm", 2, "repair needs --to, --in-place, or --check"),
        ("", "--engine vllm --to base", 2, "already exists"),
    ],
)
def test_what_cannot_be_repaired_is_told_and_nothing_is_written(
    how: str, words: str, code: int, told: str, run: Run
) -> None:
    before = content("base")
    SPOILT[how](Path("rslora"))
    assert told in run(f"repair rslora --base base {words}", code).text
    assert not any(name.startswith((".out", "out", "run")) for name in os.listdir("."))  # noqa: PTH208
    assert content("base") == before


@pytest.mark.parametrize("kind", ["pickle", "shards"])
def test_weights_are_written_in_one_file(kind: str, run: Run) -> None:
    folder = adapter("whole")
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards = [f"adapter_model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    if kind == "pickle":
        torch.save(weights, folder / "adapter_model.bin")
    else:
        for number, shard in enumerate(shards):
            save_file({name: weights[name] for name in sorted(weights)[number::3]}, folder / shard)
        index = {name: shards[number % 3] for number, name in enumerate(sorted(weights))}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
    found = repair(run, "whole --engine vllm --base base --to out")
    assert [change["step"] for change in found["changes"]] == ["files"]
    assert all(torch.equal(one, weights[name]) for name, one in load_file(f"out/{WEIGHTS}").items())
    if kind == "shards":
        (folder / shards[1]).unlink()
        assert "not all shards are there" in run("repair whole --engine vllm --base base --to two", 1).text
    else:
        repair(run, "whole --engine vllm --base base --in-place")
        assert content("whole") == content("out")


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["q_proj"], ["q_proj"]),
        (["text.layers.0.self_attn.q_proj", "text.layers.1.self_attn.q_proj"], None),
        (r".*text\.layers.*q_proj", ["q_proj"]),
    ],
)
def test_modules_that_the_base_has_elsewhere_are_called_as_there(targets: object, told: object, run: Run) -> None:
    moved = {name.replace("model", "text", 1): shape for name, shape in llama_modules(["q_proj"]).items()}
    write_adapter(Path("moved"), modules=moved, config={"target_modules": targets})
    repair(run, "moved --engine vllm --base base --to out")
    assert json.loads(Path("out/adapter_config.json").read_text())["target_modules"] == (
        told or [*llama_modules(["q_proj"])]
    )


@pytest.mark.parametrize(("limit", "hint"), [("", "the engine with `--max-lora-rank 64`"), (", max_lora_rank: 64", "")])
def test_what_a_flag_mends_is_named_and_is_no_refusal(limit: str, hint: str, run: Run) -> None:
    """The limit is that of the manifest, else the engine's default."""
    adapter("wide", r=64)
    Path("set.yaml").write_text(f"{HEAD}engine: {{name: vllm{limit}}}\nadapters: [{{name: wide, source: ./wide}}]\n")
    told = run("repair -f set.yaml --check").text
    assert (hint in told, "1 needs other flags" in told) == (True, bool(hint))
    found = repair(run, "-f set.yaml --check")
    assert (found["refusals"], bool(found["flags"])) == ([], bool(hint))


def test_a_set_is_repaired_adapter_by_adapter_into_folders_of_their_names(run: Run) -> None:
    adapter("fine")
    entries = "{name: a, source: ./rslora}, {name: gone, source: ./nowhere}, {name: b, source: ./fine}"
    Path("set.yaml").write_text(f"{HEAD}engine: {{name: sglang}}\nadapters: [{entries}]\n")
    for words, codes in (("--check", [1, 3, 0]), ("--to out", [0, 3, 0])):
        adapters = run(f"repair -f set.yaml {words} --format json", 3).document["adapters"]
        assert [one["exit_code"] for one in adapters] == codes
        assert "there is no folder" in adapters[1]["error"]["message"]
        assert Path("out").exists() == (words != "--check")
    assert sorted(path.name for path in Path("out").iterdir()) == ["a", "b"]
    run(f"validate out/a {SGLANG}")
