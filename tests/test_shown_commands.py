"""Every command that the docs show is executed as it stands, in a folder that has what it speaks of.

What a page cannot know is put in its place: addresses of servers, a folder of another machine, how long a run is.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from unittest import mock

import pytest

from lora_cli.cli.main import main
from tests.bench.null_server import NullServer
from tests.conftest import ROOT
from tests.endpoint.engine import Engine
from tests.planted import streams
from tests.warm.running import free_port

PAGES = sorted((ROOT / "docs").glob("*.md"))

ELSEWHERE = re.compile(r"^(pip|curl|docker|kubectl|git) ")
"""Commands of others: they are not ours to test."""

NEEDS_MODEL = ".assets/smollm2-135m"

SERVED = r"warm .*--(serve|status)|--url"

CODES = {
    "warm -f manifests/quickstart.yaml": {1},
    "validate -f set.yaml": {0, 1},
    "validate manifests/quickstart/misnested": {1},
    "--engine sglang --engine vllm": {1},
    "fetch -f set.yaml --check": {0, 1},
    "cache rm acme/sql acme/chat": {3},
    "fetch -f set.yaml --policy manifests/policy.yaml": {1},
}
"""Exit codes of what finds something by design; of all others it is 0."""


def commands(page: Path) -> list[str]:
    """The lines after ``$`` in the console blocks of a page, continued lines joined and comments gone.

    Those of the README have a folder of their own, in ``test_quickstart.py``.
    """
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        joined = block.replace("\\\n", " ")
        lines = [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]
        found += [re.sub(r"\s+#.*$", "", line) for line in lines]
    return [line for line in found if not ELSEWHERE.match(line)]


pytestmark = pytest.mark.slow

SHOWN = {line: page.name for page in PAGES for line in commands(page)}
"""Each command once, with the last page that shows it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder: the quickstart's files, and a set of adapters that is locked and in the cache."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "manifests").symlink_to(ROOT / "manifests")
    (folder / ".assets").symlink_to(ROOT / ".assets")
    names = {"sql": "pirate", "chat": "zubrowka", "law": "pirate"}
    entries = "".join(f"  - {{name: {name}, source: manifests/quickstart/{at}}}\n" for name, at in names.items())
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: manifests/quickstart/smollm2-135m\n"
    (folder / "set.yaml").write_text(f"{head}adapters:\n{entries}")
    assert run(folder, "lora-cli fetch -f set.yaml", {}).returncode == 0
    return folder


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, str]]:
    """Two engines at the addresses that the pages name."""
    with Engine() as one, Engine() as other:
        yield {"http://pod-0:8000": one.url, "http://pod-1:8000": other.url, "http://localhost:8000": one.url}


PLAIN = re.compile(r"lora-cli( [\w./:@=+,%-]+)+")
"""Command lines of which a shell makes the same words."""


def run(folder: Path, line: str, places: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """What a shell does with a line; what is plain runs in this process."""
    for shown, real in places.items():
        line = line.replace(shown, real)
    if PLAIN.fullmatch(line):
        variables = {"JOB_COMPLETION_INDEX": "0", "LORA_CLI_CACHE_DIR": str(folder / "cache")}
        with mock.patch.dict(os.environ, variables), chdir(folder), streams() as said:
            code = main(line.split()[1:])
        return subprocess.CompletedProcess(line, code, *said)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = {**os.environ, "PATH": path, "JOB_COMPLETION_INDEX": "0", "LORA_CLI_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=120
    )


def test_there_are_commands() -> None:
    assert len(SHOWN) > 15


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for line, page in SHOWN.items() if not re.search(SERVED, line)]
)
def test_a_shown_command_does_what_it_says(page: str, line: str, folder: Path, engines: dict[str, str]) -> None:
    if NEEDS_MODEL in line and not (ROOT / NEEDS_MODEL / "config.json").exists():
        pytest.skip("the model is not built (make model)")
    done = run(folder, line, {**engines, " /adapters": f" {folder}/adapters", "~/.cache/lora-cli": f"{folder}/cache"})
    expected = next((codes for words, codes in CODES.items() if words in line), {0})
    assert done.returncode in expected, f"{page}: {line}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def test_a_shown_server_starts_tells_and_stops(folder: Path) -> None:
    lines = [line for line in SHOWN if re.search(r"warm .*--(serve|status)", line)]
    listen = f"--listen 127.0.0.1:{free_port()}"
    places = {"/tmp/ready": f"{folder}/ready", "--serve": f"--serve {listen}", "--status": f"--status {listen}"}
    served = next(line for line in lines if "--ready-file" in line)
    for shown, real in places.items():
        served = served.replace(shown, real)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = {**os.environ, "PATH": path, "LORA_CLI_CACHE_DIR": str(folder / "cache")}
    with subprocess.Popen(["bash", "-c", f"exec {served}"], cwd=folder, env=environ, stderr=subprocess.PIPE) as server:
        try:
            until = time.monotonic() + 60
            while not (folder / "ready").exists():
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            for line in (line for line in lines if "--serve" not in line):
                done = run(folder, line, places)
                assert done.returncode == 0, f"{line}\n{done.stderr}"
            server.terminate()
            assert server.wait(20) == 0
        finally:
            server.kill()


def test_a_shown_measurement_of_a_server_does_what_it_says(folder: Path) -> None:
    lines = [line for line in SHOWN if "--url" in line]
    assert lines
    with NullServer("--names", "sql", "chat", "law") as server:
        for line in lines:
            shorter = {"--num-prompts 500": "--num-prompts 40", "--request-rate 20": "--request-rate 80"}
            done = run(folder, line, {"http://127.0.0.1:8000": server.url, **shorter})
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert "all" in done.stdout
