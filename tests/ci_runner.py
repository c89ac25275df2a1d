"""What GitHub's runner does with a composite action and a workflow, and GitLab's with a job, as far as ours use it."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.copies import command_folder

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
"""How GitHub runs ``shell: bash``; GitLab's Docker executor has the same two options on."""


@dataclass
class Ran:
    """How a run went: what was said, what each step put out, the actions that were called, and the exit code."""

    out: str = ""
    code: int = 0
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    used: dict[str, dict[str, str]] = field(default_factory=dict)


def run_action(file: Path, given: Mapping[str, str], cwd: Path, environ: Mapping[str, str], *, skip: str = "") -> Ran:
    """Run the steps of the composite action ``file`` in ``cwd`` with the inputs that are given, but the one to skip."""
    action = yaml.safe_load(file.read_text())
    assert given.keys() <= action["inputs"].keys()
    inputs = {name: str(given.get(name, spec["default"])) for name, spec in action["inputs"].items()}
    steps = action["runs"]["steps"]
    assert all("uses" in step or step["shell"] == "bash" for step in steps)
    return _run_steps(steps, inputs, cwd, {**environ, "GITHUB_ACTION_PATH": str(file.parent)}, skip)


def run_workflow(job: Mapping[str, Any], cwd: Path, environ: Mapping[str, str]) -> Ran:
    """Run a job of a GitHub workflow in ``cwd``; ``environ`` wins over the job's own variables."""
    own = {name: _filled(value, {}, Ran(), cwd) for name, value in job.get("env", {}).items()}
    return _run_steps(job["steps"], {}, cwd, {**own, **environ})


def _run_steps(
    steps: list[dict[str, Any]], inputs: Mapping[str, str], cwd: Path, environ: Mapping[str, str], skip: str = ""
) -> Ran:
    """After a step that failed only those run that ask whether the job was cancelled."""
    ran = Ran()
    for number, step in enumerate(steps):
        condition = str(step.get("if", "true"))
        if step.get("name") == skip or (ran.code and "cancelled()" not in condition):
            continue
        if not _holds(condition, inputs, ran, cwd):
            continue
        if "uses" in step:
            given = step.get("with", {})
            ran.used[step["uses"]] = {key: _filled(value, inputs, ran, cwd) for key, value in given.items()}
            continue
        told = cwd / f".output-{number}"
        told.touch()
        own = {key: _filled(value, inputs, ran, cwd) for key, value in step.get("env", {}).items()}
        github = {"GITHUB_OUTPUT": str(told), "GITHUB_ACTIONS": "true"}
        github["GITHUB_STEP_SUMMARY"] = str(cwd / "summary.md")
        _run(step["run"], cwd, {**environ, **github, **own}, ran)
        ran.outputs[step.get("id", str(number))] = dict(line.split("=", 1) for line in told.read_text().splitlines())
        told.unlink()
    return ran


def run_job(job: Mapping[str, Any], cwd: Path, environ: Mapping[str, str]) -> Ran:
    """Run a job of GitLab: its ``before_script`` and ``script`` are one script."""
    ran = Ran()
    _run("\n".join([*job.get("before_script", ()), *job["script"]]), cwd, environ, ran)
    return ran


def _run(script: str, cwd: Path, environ: Mapping[str, str], ran: Ran) -> None:
    assert "${{" not in script, "an input in a script could be a command"
    done = subprocess.run(
        [*BASH, "-c", script], cwd=cwd, env=dict(environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    ran.out += done.stdout
    ran.code = ran.code or done.returncode


def _filled(value: Any, inputs: Mapping[str, str], ran: Ran, cwd: Path) -> str:
    return EXPRESSION.sub(lambda match: _value(match[1], inputs, ran, cwd), str(value))


def _holds(condition: str, inputs: Mapping[str, str], ran: Ran, cwd: Path) -> bool:
    """An ``if:``, of which ours have comparisons with a text, a negated value, and ``&&``."""
    text = EXPRESSION.sub(lambda match: match[1], str(condition))
    for part in map(str.strip, text.split("&&")):
        if compared := re.fullmatch(r"(.+?) (==|!=) '(.*)'", part):
            if (_value(compared[1], inputs, ran, cwd) == compared[3]) != (compared[2] == "=="):
                return False
        elif part.startswith("!"):
            if _value(part[1:], inputs, ran, cwd):
                return False
        else:
            assert part == "true", part
    return True


def _value(name: str, inputs: Mapping[str, str], ran: Ran, cwd: Path) -> str:
    if hashed := re.fullmatch(r"hashFiles\((.*)\)", name):
        file = cwd / _value(hashed[1], inputs, ran, cwd)
        return "a hash" if file.is_file() else ""
    if literal := re.fullmatch(r"'(.*)'", name):
        return literal[1]
    match name.split("."):
        case ["github", "workspace"]:
            return str(cwd)
        case ["inputs", key]:
            return inputs[key]
        case ["steps", step, "outputs", key]:
            return ran.outputs.get(step, {}).get(key, "")
        case ["env" | "github" | "secrets" | "cancelled()", *_]:
            return ""
    raise AssertionError(f"the runner of the tests does not know {name}")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A clean one, with this environment's ``lora-cli`` and Python; pip installs into ``folder``, and nothing else.

    What pip brings comes first, so that a step runs what the step before it installed. (A 0 is how a variable says no
    isolation: https://github.com/pypa/pip/issues/5735)
    """
    here = Path(sys.executable).parent
    own = {name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "XDG_CACHE_HOME"}}
    pip = {"PIP_TARGET": str(folder), "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}
    path = f"{folder / 'bin'}:{command_folder()}:{here}:{os.environ['PATH']}"
    return {**own, **pip, "PATH": path, "PYTHONPATH": str(folder), **more}
