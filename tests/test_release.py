"""A release: ``make dist`` gives the same bytes anywhere, with all they must hold, under the changelog's version."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lora_cli import __version__
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="releases are built in a clone"),
]

JUNK = (".venv/lib/x.py", "lora_cli/__pycache__/x.pyc", "tests/.hypothesis/x", ".assets/model/x", ".demo/tests/x.py")
A_YEAR_LATER = "import time\nnow = time.time\ntime.time = lambda: now() + 365 * 86400\n"


class Built(NamedTuple):
    """What one ``make dist`` left."""

    wheel: Path
    sdist: Path


def tracked(*folders: str) -> set[str]:
    """The files that git knows, as they lie here."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def make_dist(folder: Path, umask: int, **environment: str) -> Built:
    """Copies the checkout into ``folder`` as somebody with this umask would have it, and builds there."""
    previous = os.umask(umask)
    try:
        for name in tracked():
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
            copy.chmod((0o777 if os.access(ROOT / name, os.X_OK) else 0o666) & ~umask)
        for name in JUNK:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("not ours")
        there = ["-o", f"{sys.prefix}/.ready", f"VENV={sys.prefix}"]
        done = subprocess.run(
            ["make", "-C", str(folder), *there, "dist"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.umask(previous)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2, "twine looks at both"
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return make_dist(tmp_path_factory.mktemp("one"), 0o022)


def test_another_folder_clock_umask_and_time_zone_give_the_same_bytes(built: Built, tmp_path: Path) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(A_YEAR_LATER)
    elsewhere = {"PYTHONPATH": str(tmp_path / "clock"), "TZ": "Pacific/Auckland", "LC_ALL": "C"}

    again = make_dist(tmp_path / "another/folder", 0o077, **elsewhere)

    assert again.wheel.read_bytes() == built.wheel.read_bytes()
    assert again.sdist.read_bytes() == built.sdist.read_bytes()


def test_the_sdist_is_what_git_tracks(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == tracked() | {"PKG-INFO"}


def test_the_wheel_has_every_file_of_the_package_and_the_licence(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == tracked("lora_cli")
    assert f"lora_cli-{__version__}.dist-info/licenses/LICENSE" in about


def test_one_version_names_files_metadata_and_whatever_docs_have_copied(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"lora_cli-{__version__}.dist-info/METADATA"))

    assert built.wheel.name == f"lora_cli-{__version__}-py3-none-any.whl"
    assert built.sdist.name == f"lora_cli-{__version__}.tar.gz"
    assert metadata["Version"] == __version__
    assert dict(mentions()) == {}


def mentions() -> Iterator[tuple[str, str]]:
    """Where a file names another version of ours than this, and which."""
    ours = re.compile(r"(?:lora-cli(?:@v|:|==)|lora_cli |rev: v|tags/v)(\d+\.\d+\.\d+)")
    for name in tracked("README.md", "action.yml", ".pre-commit-hooks.yaml", "docs", "manifests"):
        for found in ours.findall((ROOT / name).read_text(encoding="utf-8", errors="replace")):
            if found != __version__:
                yield name, found
