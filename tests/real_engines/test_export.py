"""The real vLLM and SGLang parse the command lines that ``lora-cli export`` writes (``make test-engines``)."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.reading.manifest import read_lock
from tests.making import write_adapter
from tests.real_engines.sglang_server import PYTHON as SGLANG
from tests.real_engines.vllm_server import ENVIRONMENT
from tests.real_engines.vllm_server import PYTHON as VLLM

pytestmark = pytest.mark.engines

OF_VLLM = """
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
found = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[3:])
adapters = {one.name: one.path for one in found.lora_modules}
print(json.dumps([adapters, found.model_tag, found.revision, found.max_lora_rank, found.max_loras]))
"""
OF_SGLANG = """
import argparse
from sglang.srt.server_args import ServerArgs
ServerArgs.add_cli_args(parser := argparse.ArgumentParser())
found = parser.parse_args(sys.argv[4:])
adapters = {one["lora_name"]: one["lora_path"] for one in found.lora_paths}
print(json.dumps([adapters, found.model_path, found.revision, found.max_lora_rank, found.max_loras_per_batch]))
"""


@pytest.mark.parametrize(
    ("platform", "python", "parser", "slots"), [("vllm-cli", VLLM, OF_VLLM, 2), ("sglang-cli", SGLANG, OF_SGLANG, 3)]
)
def test_the_engine_parses_its_command_line(
    platform: str, python: Path, parser: str, slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "it's a cache, with = and {}"))
    entries = "".join(f"  - {{name: {write_adapter(Path(name)).name}, source: ./{name}}}\n" for name in ("sql", "chat"))
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n{entries}")
    assert main(["fetch", "-f", "set.yaml"]) == 0
    commit = "9f" * 20
    assert main(["export", platform, "-f", "set.yaml", "--base", f"acme/base@{commit}", "-o", "serve.sh"]) == 0

    words = shlex.split(Path("serve.sh").read_text().replace("\\\n", " "), comments=True)
    ran = subprocess.run(
        [str(python), "-c", f"import json, sys{parser}", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRONMENT, "PATH": "", "HOME": str(tmp_path)},
    )

    assert ran.returncode == 0, ran.stderr[-2000:]
    snapshots = tmp_path / "it's a cache, with = and {}" / "snapshots" / "sha256"
    paths = {one.name: str(snapshots / one.digest) for one in read_lock(Path("set.lock.yaml")).adapters}
    rank = 8 if platform == "vllm-cli" else 4
    assert json.loads(ran.stdout.splitlines()[-1]) == [paths, "acme/base", commit, rank, slots]
