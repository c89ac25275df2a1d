"""A command in a root file system of its own, as a user without rights, and without a container engine.

The system's folders and this Python stand in for an image, read-only. What else is there is mounted, at the path that
it has for the command. User and mount namespaces do that for any user, where the machine has them.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

IMAGE = ("usr", "bin", "sbin", "lib", "lib64", "etc/ssl", "etc/hosts", "etc/ld.so.cache", "etc/nsswitch.conf")
"""There is no ``/etc/passwd``: nobody knows the user by name, as in clusters that give each namespace a number."""

USER = 65532
DEVICES = ("null", "zero", "full", "random", "urandom")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine, and where the command sees it."""

    source: Path
    target: str
    read_only: bool = False


def start(
    root: Path,
    mounts: Sequence[Mount],
    words: Sequence[str],
    environ: Mapping[str, str],
    *,
    is_first: bool = False,
) -> "subprocess.Popen[str]":
    """Runs ``words`` as ``USER``, who has no capability; ``environ`` is all of the environment.

    ``root`` is an empty folder, in which a file system of memory is mounted that is read-only for the command. With
    ``is_first`` the command is process 1, which gets no signal that it does not handle.

    Where the machine has no namespaces for us the command runs as we are, with the mounted paths in its words and
    environment put in the place of those that it would see.
    """
    if missing() and not is_first:
        return _mapped(mounts, words, environ)
    at = shlex.quote(str(root))
    image = [*(Path("/", name) for name in IMAGE), *map(Path.resolve, (Path(sys.prefix), Path(sys.base_prefix), ROOT))]
    lines = [
        f"cd {at}; mount -t tmpfs none .; cd {at}",
        "mkdir -p proc dev .old; mount --rbind /proc proc",
        *(f"touch dev/{name}; mount --bind /dev/{name} dev/{name}" for name in DEVICES),
        # The image comes last: a folder that is mounted, /tmp say, may be where this Python lies.
        *map(_bound, mounts),
        *(_bound(Mount(place, str(place), read_only=True)) for place in dict.fromkeys(image)),
        "pivot_root . .old; cd /; umount -l /.old; rmdir /.old; mount -o remount,ro /",
        shlex.join(["exec", *_as(is_first=is_first), *_program(words, environ)]),
    ]
    return subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", "\n".join(lines)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def _mapped(mounts: Sequence[Mount], words: Sequence[str], environ: Mapping[str, str]) -> "subprocess.Popen[str]":
    targets = sorted(mounts, key=lambda mount: -len(mount.target))
    pattern = re.compile(r"(?<![\w.-])(" + "|".join(re.escape(mount.target) for mount in targets) + r")(?=[/:]|$)")
    here = {mount.target: str(mount.source) for mount in mounts}
    there = {name: pattern.sub(lambda found: here[found[1]], value) for name, value in environ.items()}
    program = _program([pattern.sub(lambda found: here[found[1]], word) for word in words], {**environ, **there})
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _as(*, is_first: bool) -> list[str]:
    first = ["--pid", "--fork", "--kill-child"] if is_first else []
    return ["unshare", "--user", f"--map-user={USER}", f"--map-group={USER}", *first]


def _program(words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    usual = {"PATH": f"{BIN}:/usr/bin:/bin", "PYTHONPATH": str(ROOT.resolve())}
    return ["env", "-i", *(f"{name}={value}" for name, value in {**usual, **environ}.items()), *words]


def _bound(mount: Mount) -> str:
    """The lines that mount it below the new root; a link of the system is made anew."""
    source, at = mount.source, shlex.quote("." + mount.target)
    if source.is_symlink() and str(source) == mount.target:
        return f"mkdir -p $(dirname {at}); [ -e {at} ] || ln -s {shlex.quote(str(source.readlink()))} {at}"
    if not source.exists():
        return ":"
    made = f"mkdir -p {at}" if source.is_dir() else f"mkdir -p $(dirname {at}); touch {at}"
    lines = [made, f"mount --bind {shlex.quote(str(source))} {at}"]
    return "\n".join([*lines, f"mount -o remount,bind,ro {at}"] if mount.read_only else lines)


@cache
def missing() -> str:
    """Why this machine cannot do that; empty where it can. ``WITHOUT_NAMESPACES=1`` tests what is done then."""
    if os.environ.get("WITHOUT_NAMESPACES"):
        return "WITHOUT_NAMESPACES is set"
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "pivot_root", "mount"))):
        return "this needs the namespaces of Linux, and util-linux"
    inner = f"mount -t tmpfs none /mnt && unshare --user --map-user={USER} --map-group={USER} true"
    tried = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    return f"this machine does not let us have namespaces: {done.stderr.strip()}" if done.returncode else ""
