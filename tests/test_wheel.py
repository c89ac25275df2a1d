"""The base wheel in a clean virtual environment: every command starts, and one whose extra is missing says so."""

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.cli.main import COMMANDS
from tests.hub_server import Hub
from tests.making import write_adapter, write_base_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the ``lora-cli`` that pip installed from our wheel, without any extra."""
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = home.glob("*.whl")
    venv.create(home / "venv")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "venv/bin/python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", str(wheel)], check=True, capture_output=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LORA_CLI_CACHE_DIR": str(home / "cache")}

    def run(*argv: str, program: str = "lora-cli", **variables: str) -> subprocess.CompletedProcess[str]:
        command = [str(home / "venv/bin" / program), *argv]
        env = environment | variables
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=home, check=False)

    return run


EVERY_HELP = """
import sys
from lora_cli.cli.main import main

for name in sys.argv[1:]:
    print(f"begin {name}", flush=True)
    print(f"end {name} {main([name, '--help'])}", flush=True)
"""


def test_every_command_explains_itself(installed: Run) -> None:
    """The start takes most of the time: one process explains all of them."""
    done = installed("-c", EVERY_HELP, *COMMANDS, program="python")
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        said = done.stdout.partition(f"begin {name}\n")[2].partition("begin ")[0]
        assert f"lora-cli {name}" in said
        assert said.endswith(f"end {name} 0\n")


def test_fetch_validate_and_inspect_work_without_extras(installed: Run, tmp_path: Path) -> None:
    adapter, base = (
        write_adapter(tmp_path / "sql", config={"layers_to_transform": [0]}),
        write_base_config(tmp_path / "base"),
    )

    fetched = installed("fetch", str(adapter))
    validated = installed("validate", str(adapter), "--base", str(base))
    inspected = installed("inspect", str(adapter), "--format", "json")
    page = installed("serve-bench", "--simulate", "--num-prompts", "20", "--format", "html")

    assert fetched.returncode == 0, fetched.stderr
    assert (Path(fetched.stdout.strip()) / "adapter_model.safetensors").is_file()
    assert validated.returncode == 0, validated.stdout
    assert inspected.returncode == 0, inspected.stderr
    assert page.returncode == 0, page.stderr
    assert "<style>" in page.stdout


@pytest.mark.parametrize(
    ("command", "extra"), [(("warm",), "warm"), (("serve-bench",), "models")], ids=["warm", "serve-bench"]
)
def test_a_command_that_needs_torch_names_the_extra(
    installed: Run, tmp_path: Path, command: tuple[str, ...], extra: str
) -> None:
    adapter, base = (
        write_adapter(tmp_path / "sql", config={"layers_to_transform": [0]}),
        write_base_config(tmp_path / "base"),
    )

    done = installed(command[0], str(adapter), "--base", str(base), *command[1:])

    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install 'lora-cli[{extra}]" in done.stderr


def test_the_hub_is_read_beside_the_oldest_client_of_the_hub(installed: Run, tmp_path: Path) -> None:
    old = tmp_path / "old"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(old)]
    subprocess.run([*pip, "huggingface_hub==1.22.0", "httpx<1"], check=True, capture_output=True)
    with Hub() as hub:
        hub.add("acme/sql", write_adapter(tmp_path / "sql"), private=True)
        token = hub.token("hf_" + "a" * 30, "acme/sql")
        variables = {"PYTHONPATH": str(old), "HF_ENDPOINT": hub.endpoint}
        refused = installed("fetch", "hf://acme/sql", **variables)
        fetched = installed("fetch", "hf://acme/sql", **variables, HF_TOKEN=token)

    assert refused.returncode == 3, refused.stderr
    assert fetched.returncode == 0, fetched.stderr
    assert (Path(fetched.stdout.strip()) / "adapter_model.safetensors").is_file()
