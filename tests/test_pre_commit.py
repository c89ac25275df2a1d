"""The hook for pre-commit, run by pre-commit itself in a repository of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lora_cli.cli.main import main
from lora_cli.fetching.file_selection import changed_adapters
from tests.conftest import ROOT

HOOKS = ROOT / ".pre-commit-hooks.yaml"
BASE = ["--base", "adapters/smollm2-135m", "--"]
OFFLINE = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PYTHONPATH": ":".join(sys.path)}


def run(words: str, *more: str, **environ: str) -> tuple[int, str]:
    """Exit code of a command, and what it says on its streams."""
    path, home = f"{Path(sys.executable).parent}:{os.environ['PATH']}", str(Path.cwd())
    own = {"PATH": path, "HOME": home, "PRE_COMMIT_HOME": f"{home}/.git/pre-commit", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*words.split(), *more], env={**own, **environ}, capture_output=True, text=True, check=False)
    return done.returncode, " ".join(f"{done.stdout} {done.stderr}".split())


def commit() -> None:
    assert run("git add .")[0] == 0
    assert run("git -c user.name=x -c user.email=x@example.com commit --quiet --no-verify -m all")[0] == 0


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: three adapters, one of them broken, and their base; nothing is committed."""
    for name in ("pirate", "zubrowka", "misnested", "smollm2-135m"):
        shutil.copytree(ROOT / "manifests" / "quickstart" / name, tmp_path / "adapters" / name)
    monkeypatch.chdir(tmp_path)
    run("git init --quiet")
    return tmp_path


def judged(*args: str) -> tuple[int, str]:
    """What pre-commit says of the files that are staged. Our hook is not installed anew: it is this environment's."""
    (hook,) = yaml.safe_load(HOOKS.read_text())
    hooks = [{**hook, "language": "system", **({"args": [*args]} if args else {})}]
    Path(".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": hooks}]}))
    run("git add .")
    return run("pre-commit run --verbose")


@pytest.mark.slow
def test_pre_commit_installs_the_hook_from_the_tag_that_the_example_names(repository: Path) -> None:
    (example,) = yaml.safe_load("\n".join(re.findall(r"^#   (.*)", HOOKS.read_text(), re.MULTILINE)))
    ours = repository / ".git" / "lora-cli"
    shutil.copytree(ROOT / "lora_cli", ours / "lora_cli", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", HOOKS.name):
        shutil.copy(ROOT / name, ours)
    os.chdir(ours)
    run("git init --quiet")
    commit()
    assert run(f"git tag {example['rev']}")[0] == 0
    os.chdir(repository)
    example["repo"], example["hooks"][0]["args"] = str(ours), BASE
    Path(".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [example]}))
    run("git add .")
    code, said = run("pre-commit run --verbose", **OFFLINE)
    assert [*(repository / ".git" / "pre-commit").rglob("bin/lora-cli")], said
    assert (code, "LC311 modules-not-in-base" in said) == (1, True), said


@pytest.mark.slow
def test_a_broken_adapter_is_not_committed_and_each_is_judged_once(repository: Path) -> None:
    assert judged()[0] == 0  # what misnested is broken in only a base tells
    Path("--ignore=LC1,LC3").touch()  # the name of a file is never an option
    code, said = judged(*BASE)
    assert (code, re.findall(r"\d+ adapters?: [^;]*", said)) == (1, ["3 adapters: 2 ok, 1 failed, 1 can be repaired"])


CHANGES: dict[str, tuple[str, bytes | None, int]] = {
    "config": ("adapter_config.json", b"{}", 1),
    "weights": ("adapter_model.safetensors", b"", 1),
    "link": ("adapter_model.safetensors", None, 1),
    "pickle": ("training_args.bin", b"cos\nsystem\n(S'id'\ntR.", 1),
    "template": ("chat_template.jinja", b"{{ ().__class__.__base__.__subclasses__() }}", 1),
    "card": ("README.md", b"# Pirate", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_one_file_that_changes_has_its_whole_adapter_judged_and_no_other(change: str, repository: Path) -> None:
    commit()
    file, data, expected = CHANGES[change]
    path = repository / "adapters" / "pirate" / file
    path.unlink(missing_ok=True)
    path.symlink_to("/nowhere") if data is None else path.write_bytes(data)
    code, said = judged()
    assert (code, "1 adapter: " in said) == (expected, True), said


def test_changed_files_stand_for_the_nearest_adapter_above_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a/adapter_config.json", "b/c/adapter_model-00001-of-00002.bin", "docs/our_adapter_model.md"):
        Path(file).parent.mkdir(parents=True)
        Path(file).touch()
    Path("linked").mkdir()
    Path("linked/adapter_model.safetensors").symlink_to("/nowhere")
    files = {"a/deep/er/gone.txt": "a", "b/c/adapter_config.json": "b/c", "linked/README.md": "linked"}
    none = ["docs/our_adapter_model.md", "README.md", "gone/adapter_config.json"]
    assert [changed_adapters([file]) for file in files] == [[folder] for folder in files.values()]
    assert changed_adapters([*files, *none]) == ["a", "b/c", "linked"]
    assert changed_adapters(["b"]) == ["b/c"]  # git names a submodule so
    assert main(["validate", "--changed-files", "-f", "set.yaml"]) == 2
    assert main(["validate", "--changed-files", "--base", "none", *none]) == 0
    assert "--changed-files is for REFs" in capsys.readouterr().err
