"""The examples for CI servers are valid by those servers' own schemas, and their commands gate a repository."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from lora_cli.cli.main import main
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

CI = ROOT / "manifests" / "ci"
SCHEMAS = {
    CI / "github-actions.yaml": "vendor.github-workflows",
    CI / "gitlab-ci.yaml": "vendor.gitlab-ci",
    ROOT / "action.yml": "vendor.github-actions",
}
EXAMPLES = [*SCHEMAS][:2]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The quickstart's adapters as a repository with a set of its own, whose lock is committed."""
    for name in ("pirate", "zubrowka", "misnested", "smollm2-135m"):
        shutil.copytree(ROOT / "manifests" / "quickstart" / name, tmp_path / "adapters" / name)
    adapters = "".join(f"  - {{name: {name}, source: ./adapters/{name}}}\n" for name in ("pirate", "misnested"))
    (tmp_path / "set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./adapters/smollm2-135m\nadapters:\n{adapters}"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / ".lora-cli"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert main(["fetch", "-f", "set.yaml"]) == 0
    return tmp_path


def lines(node: Any, word: str) -> list[str]:
    """The texts of an example that begin with a word, or are a script with it."""
    if isinstance(node, str):
        return [node] if re.search(rf"^{word} ", node, re.MULTILINE) else []
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [found for child in children for found in lines(child, word)]


def bash(script: str, **environ: str) -> tuple[int, str]:
    """Exit code and output of a script, as GitHub and GitLab run it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environ}
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.name)
def test_an_example_is_valid_by_the_schema_of_its_server(file: Path) -> None:
    assert {*CI.iterdir()} == {*EXAMPLES}
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", SCHEMAS[file], str(file)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_commands_of_an_example_gate_a_repository_and_their_reports_are_collected(
    file: Path, repository: Path
) -> None:
    commands = [shlex.split(line)[1:] for line in lines(yaml.safe_load(file.read_text()), "lora-cli")]
    for command in commands:
        assert main(command) == {"validate": 1, "fetch": 0}[command[0]]
    assert {"validate", "--strict"} <= {word for command in commands for word in command}
    cases = {case.get("name"): case.find("failure") is not None for case in ET.parse("lora.xml").iter("testcase")}
    assert cases == {"pirate": False, "misnested": True}
    for report in Path().glob("lora.*"):
        assert report.name in re.sub(r"--format \S+", "", file.read_text())
    if Path("lora.json").exists():
        outcomes = [one["outcome"] for one in json.loads(Path("lora.json").read_text())["adapters"]]
        assert outcomes.count("refused") == 1
    else:
        assert json.loads(Path("lora.sarif").read_text())["version"] == "2.1.0"
        assert "misnested" in Path("summary.md").read_text()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 1),
        ({"MANIFEST": "lost.yaml"}, 3),
        ({"ARGS": "--select LC*"}, 2),  # no pattern of files, and no rule
        ({"MANIFEST": "", "ARGS": "adapters/pirate --base adapters/smollm2-135m"}, 0),
        ({"MANIFEST": "", "ARGS": "adapters/pirate"}, 1),  # its base cannot be read: unchecked
        ({"ARGS": "$(touch pwned) ;touch pwned"}, 2),
    ],
)
def test_the_action_judges_reports_and_fails(given: dict[str, str], expected: int, repository: Path) -> None:
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    assert not any("${{" in step.get("run", "") for step in steps)  # an input in a script could be a command
    (step,) = (step for step in steps if "id" in step)
    Path("LC311").touch()
    inputs = {"MANIFEST": "set.yaml", "ARGS": "", "SARIF": "lora.sarif", "JUNIT": "lora.xml", **given}
    more = {"GITHUB_OUTPUT": str(repository / "told"), "GITHUB_ACTIONS": "true"}
    code, said = bash(step["run"], **inputs, **more)
    assert (code, Path("told").read_text()) == (expected, f"exit-code={expected}\n"), said
    assert not Path("pwned").exists()
    assert said.count("::error title=lora-cli::") == (expected > 0)
    assert ("::error file=adapters/misnested/adapter_model.safetensors" in said) is (given == {})


def test_the_shown_command_for_changed_files_judges_their_adapters_alone(repository: Path) -> None:
    shown = re.search(r"\$ (set -o pipefail)\n *\$ (git diff .*\n.*)", (ROOT / "docs" / "ci.md").read_text())
    assert shown is not None
    script = "\n".join(shown.groups()).replace("models/llama/config.json", str(repository / "adapters/smollm2-135m"))
    commit = "git -c user.name=a -c user.email=a@example.com -c commit.gpgsign=false commit -qm all"
    assert bash(f"git init -q; git add adapters; {commit}; git update-ref refs/remotes/origin/main HEAD") == (0, "")
    assert bash(script) == (0, "")
    shutil.move("adapters/misnested", "--ignore=LC")  # no option
    assert bash(f"git add -- adapters --ignore=LC; {commit}") == (0, "")
    code, out = bash(script)
    assert (code, "1 adapter: 1 failed" in " ".join(out.split())) == (123, True), out
    assert bash(f"git update-ref -d refs/remotes/origin/main; {script}")[0] == 128
