"""A child process that runs as somebody else, where this one may become somebody else."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534

BECOME = f"""
import os, sys
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
"""


def as_another_user(imports: str, code: str, *words: str) -> str:
    """What ``code`` prints: as nobody when this user is root, else as this one.

    ``imports`` are done before, while every module can still be read. ``words`` are ``sys.argv[1:]``.
    """
    command = [sys.executable, "-c", imports + BECOME + code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every user of this machine may write, below none that they may not enter."""
    folder = Path(tempfile.mkdtemp(prefix="lora-cli-", dir="/tmp"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False)
        shutil.rmtree(folder)


def let_everybody_write(folder: Path) -> None:
    """Opens the folders below, not the files in them: what a shared volume with a common group is like."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o777)
