"""The hook for pre-commit, run by pre-commit itself in a repository of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lora_cli.cli.adapter_selection import changed_adapters
from lora_cli.cli.main import main
from tests.conftest import ROOT
from tests.copies import command_folder

pytestmark = pytest.mark.slow

HOOKS = ROOT / ".pre-commit-hooks.yaml"


OFFLINE = {
    "PIP_NO_DEPS": "1",
    "PIP_NO_BUILD_ISOLATION": "0",
    "PIP_NO_INDEX": "1",
    "PYTHONPATH": os.pathsep.join(sys.path),
}
"""pip installs the hook alone; what it depends on and is built with is this environment's."""


def run(*argv: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = f"{command_folder()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "HOME": str(cwd), "PRE_COMMIT_HOME": str(cwd / ".git" / "pre-commit"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=cwd, env={**own, **environ}, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three adapters, one of them broken, and their base; all of it is staged."""
    for name in ("pirate", "zubrowka", "misnested", "smollm2-135m"):
        shutil.copytree(ROOT / "manifests" / "quickstart" / name, tmp_path / "adapters" / name)
    (tmp_path / "README.md").write_text("# Adapters\n")
    run("git", "init", "--quiet", cwd=tmp_path)
    return tmp_path


def commit(
    repository: Path, *, flags: tuple[str, ...] = ("--verbose",), **more: Any
) -> subprocess.CompletedProcess[str]:
    """What pre-commit says of the files that are staged. Our hook is not installed anew: it is this environment's."""
    (hook,) = yaml.safe_load(HOOKS.read_text())
    hooks = [{**hook, "language": "system", **more}]
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": hooks}]}))
    run("git", "add", ".", cwd=repository)
    return run("pre-commit", "run", *flags, cwd=repository)


def test_the_hook_is_one_that_pre_commit_takes(tmp_path: Path) -> None:
    assert run("pre-commit", "validate-manifest", str(HOOKS), cwd=tmp_path).returncode == 0


def test_pre_commit_installs_the_hook_from_the_tag_that_the_example_names(repository: Path, tmp_path: Path) -> None:
    (example,) = yaml.safe_load("\n".join(re.findall(r"^#   (.*)", HOOKS.read_text(), re.MULTILINE)))
    ours = tmp_path / ".git" / "lora-cli"
    shutil.copytree(ROOT / "lora_cli", ours / "lora_cli", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", HOOKS.name):
        shutil.copy(ROOT / name, ours)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for words in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "all"], ["tag", example["rev"]]):
        assert run("git", *words, cwd=ours).returncode == 0
    example["repo"] = str(ours)
    example["hooks"][0]["args"] = ["--base", "adapters/smollm2-135m"]
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [example]}))
    run("git", "add", ".", cwd=repository)

    done = run("pre-commit", "run", "--verbose", cwd=repository, **OFFLINE)

    assert [*(repository / ".git" / "pre-commit").rglob("bin/lora-cli")], done.stdout
    assert done.returncode == 1, done.stdout
    assert "LC311 nothing-applies" in done.stdout


def test_a_broken_adapter_is_not_committed_and_each_is_judged_once(repository: Path) -> None:
    done = commit(repository, args=["--base", "adapters/smollm2-135m"])

    assert done.returncode == 1, done.stdout
    assert "LC311 nothing-applies" in done.stdout
    assert re.findall(r"\d+ adapters? \(.*?\)", done.stdout) == ["3 adapters (2 ok, 1 refused)"]


def test_without_arguments_what_needs_no_base_is_judged_and_no_network_is_needed(repository: Path) -> None:
    assert commit(repository).returncode == 0  # what misnested is broken in only a base tells
    weights = repository / "adapters" / "pirate" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    alone = ["unshare", "--map-root-user", "--net"]
    done = commit(repository, entry=" ".join([*alone, "lora-cli", "validate"])) if can(alone) else commit(repository)

    assert done.returncode == 1, done.stdout
    assert "LC102 weights-corrupt" in done.stdout


def test_what_passes_without_a_base_is_shown_with_the_checks_that_were_skipped(repository: Path) -> None:
    done = commit(repository, flags=())

    assert done.returncode == 0
    assert "no base model was given: LC311" in done.stdout
    (hook,) = yaml.safe_load(HOOKS.read_text())
    assert "with --base those without effect" in hook["description"]


def can(argv: list[str]) -> bool:
    """Whether this machine lets us run a command in such a namespace."""
    return (
        bool(shutil.which(argv[0]))
        and subprocess.run([*argv, "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_one_file_that_changes_has_its_whole_adapter_judged_and_no_other(repository: Path, file: str) -> None:
    commit(repository)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    assert run("git", *who, "commit", "--quiet", "--no-verify", "-m", "all", cwd=repository).returncode == 0
    changed = repository / "adapters" / "pirate" / file
    changed.write_bytes(changed.read_bytes() + b" ")

    done = commit(repository)

    assert "1 adapter (" in done.stdout, done.stdout
    assert "adapters/pirate" in done.stdout


def test_a_pickle_wakes_the_hook(repository: Path) -> None:
    commit(repository)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    assert run("git", *who, "commit", "--quiet", "--no-verify", "-m", "all", cwd=repository).returncode == 0
    (repository / "adapters" / "pirate" / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'id'\ntR.")

    done = commit(repository)

    assert "1 adapter (" in done.stdout, done.stdout
    assert "LC108" in done.stdout


def test_changed_files_stand_for_the_nearest_adapter_above_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b/c", "docs", "whole"):
        Path(name).mkdir(parents=True)
    Path("a/adapter_config.json").touch()
    Path("b/c/adapter_model-00001-of-00002.bin").touch()
    Path("whole/pytorch_lora_weights.safetensors").touch()
    Path("docs/our_adapter_model.md").touch()
    files = {
        "a/chat_template.jinja": "a",
        "a/optimizer.pt": "a",
        "a/deep/er/gone.txt": "a",
        "a/adapter_config.json": "a",
        "b/c/adapter_config.json": "b/c",  # it was deleted
        "whole/pytorch_lora_weights.safetensors": "whole",
        "docs/our_adapter_model.md": None,
        "README.md": None,
        "gone/adapter_config.json": None,
    }
    for file, folder in files.items():
        assert changed_adapters([file]) == ([folder] if folder else []), file
    assert changed_adapters(list(files)) == ["a", "b/c", "whole"]


def test_other_files_validate_nothing(repository: Path) -> None:
    shutil.rmtree(repository / "adapters")

    done = commit(repository)

    assert done.returncode == 0
    assert "no adapters; no errors" in done.stdout


@pytest.mark.parametrize("name", ["chat_template.jinja", "training_args.bin"])
def test_a_hostile_file_next_to_a_good_adapter_is_not_committed(repository: Path, name: str) -> None:
    commit(repository)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    assert run("git", *who, "commit", "--quiet", "--no-verify", "-m", "all", cwd=repository).returncode == 0
    hostile = b"{{ ().__class__.__base__.__subclasses__() }}" if name.endswith("jinja") else b"cos\nsystem\n(S'id'\ntR."
    (repository / "adapters" / "pirate" / name).write_bytes(hostile)

    done = commit(repository)

    assert done.returncode == 1, done.stdout
    assert "1 adapter (1 refused)" in " ".join(done.stdout.split())


def test_changed_files_are_no_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--changed-files", "-f", str(tmp_path / "set.yaml")]) == 2
    assert "--changed-files is for REFs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--help", "--ignore=LC1,LC5", "--write-baseline=x"])
def test_the_name_of_a_file_is_never_an_option_of_the_hook(repository: Path, name: str) -> None:
    (repository / name).touch()
    done = commit(repository, args=["--base", "adapters/smollm2-135m", "--"])
    assert done.returncode == 1, done.stdout
    assert "LC311" in done.stdout


def test_a_folder_stands_for_the_adapters_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git names a submodule and a link so."""
    monkeypatch.chdir(tmp_path)
    for name in ("sub/a", "sub/b/c", "store"):
        Path(name).mkdir(parents=True)
        (Path(name) / "adapter_config.json").touch()
    Path("current").symlink_to("store")
    assert changed_adapters(["sub"]) == ["sub/a", "sub/b/c"]
    assert changed_adapters(["current"]) == ["current"]


def test_changed_files_that_are_all_elsewhere_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--changed-files", "--no-base", "no/such/file.json"]) == 0
    assert "no changed file was found" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["/nowhere", "../../elsewhere.bin"])
def test_weights_that_become_a_link_are_seen(repository: Path, target: str) -> None:
    commit(repository)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    assert run("git", *who, "commit", "--quiet", "--no-verify", "-m", "all", cwd=repository).returncode == 0
    weights = repository / "adapters" / "pirate" / "adapter_model.safetensors"
    (repository / "elsewhere.bin").write_bytes(weights.read_bytes())
    weights.unlink()
    weights.symlink_to(target)

    done = commit(repository)

    assert done.returncode == 1, done.stdout
    assert "1 adapter (1 refused)" in " ".join(done.stdout.split())


def test_an_adapter_that_is_all_dangling_links_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        Path("x", name).symlink_to("/nowhere")
    assert changed_adapters(["x/adapter_model.safetensors"]) == ["x"]
    assert changed_adapters(["x/README.md"]) == ["x"]
    Path("up").symlink_to("..")
    assert changed_adapters(["up"]) == []
