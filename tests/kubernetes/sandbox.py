"""A container as Kubernetes starts it, as far as that matters to the program in it, and without a container engine.

The command runs as user 65532 without a capability, in a root file system of its own that is read-only: the system's
folders and this Python stand in for the image, and only the volumes that are mounted can be written to, at the paths
that the manifest names. User and mount namespaces do that for any user, where the machine has them.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.conftest import ROOT
from tests.kubernetes.pods import Fields

IMAGE = ("usr", "bin", "sbin", "lib", "lib64", "etc/ssl", "etc/hosts", "etc/ld.so.cache", "etc/nsswitch.conf")
"""There is no ``/etc/passwd``: nobody knows the user by name, as in clusters that give each namespace a number."""

USER = "65532"
DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Sandbox:
    """Runs containers. ``volumes`` maps the names of a pod's volumes to folders here, ``folder`` is ours to write to.

    ``secrets`` are the values of variables that come from a Secret, ``index`` is that of an indexed Job. ``replace``
    puts real addresses in the place of those in the arguments.
    """

    folder: Path
    volumes: Mapping[str, Path]
    environ: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    index: int = 0
    replace: Mapping[str, str] | None = None

    def start(self, container: Fields, command: list[str] | None = None) -> "subprocess.Popen[str]":
        """The container's own command, or another one in the same container, as a probe is."""
        words = command or ["lora-cli", *container["args"]]
        environ = {**self.environ, "JOB_COMPLETION_INDEX": str(self.index)}
        for variable in container["env"]:
            if "value" in variable:
                environ[variable["name"]] = variable["value"]
            elif variable["name"] in self.secrets:
                environ[variable["name"]] = self.secrets[variable["name"]]
        words = [re.sub(r"\$\((\w+)\)", lambda name: environ[name[1]], word) for word in words]
        for shown, real in (self.replace or {}).items():
            words = [word.replace(shown, real) for word in words]
        script = self._script(container, environ, words)
        return subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", script],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, container: Fields, command: list[str] | None = None) -> tuple[int, str]:
        """Its exit code, and what it said."""
        with self.start(container, command) as process:
            out, _ = process.communicate(timeout=120)
        return process.returncode, out

    @property
    def termination_log(self) -> str:
        """What the last container left for the kubelet."""
        return (self.folder / "termination-log").read_text()

    def _script(self, container: Fields, environ: Mapping[str, str], words: list[str]) -> str:
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        (self.folder / "termination-log").write_text("")
        at, log = shlex.quote(str(root)), shlex.quote(str(self.folder / "termination-log"))
        image = [
            *(Path("/", name) for name in IMAGE),
            *map(Path.resolve, (Path(sys.prefix), Path(sys.base_prefix), ROOT)),
        ]
        lines = [
            f"cd {at}; mount -t tmpfs none .; cd {at}",
            *(_bound(place, read_only=True) for place in dict.fromkeys(image)),
            "mkdir proc dev old; mount --rbind /proc proc",
            *(f"touch dev/{name}; mount --bind /dev/{name} dev/{name}" for name in DEVICES),
            f"touch dev/termination-log; mount --bind {log} dev/termination-log",
        ]
        for mount in container["volumeMounts"]:
            source = self.volumes[mount["name"]] / mount.get("subPath", "")
            source.mkdir(parents=True, exist_ok=True)
            lines.append(_bound(source, Path(mount["mountPath"]), read_only=mount.get("readOnly", False)))
        lines.append("pivot_root . old; cd /; umount -l /old; rmdir /old; mount -o remount,ro /")
        variables = [f"{name}={value}" for name, value in environ.items()]
        path = f"PATH={Path(sys.executable).parent}:/usr/bin:/bin"
        program = ["env", "-i", path, f"PYTHONPATH={ROOT.resolve()}", *variables, *words]
        lines.append(shlex.join(["exec", "unshare", "--user", f"--map-user={USER}", f"--map-group={USER}", *program]))
        return "\n".join(lines)


def _bound(source: Path, target: Path | None = None, *, read_only: bool) -> str:
    """The lines that mount ``source`` at the same path, or at ``target``, below the new root."""
    at = shlex.quote("." + str(target or source))
    if target is None and source.is_symlink():
        return f"mkdir -p $(dirname {at}); [ -e {at} ] || ln -s {shlex.quote(str(source.readlink()))} {at}"
    if not source.exists():
        return ":"
    made = f"mkdir -p {at}" if source.is_dir() else f"mkdir -p $(dirname {at}); touch {at}"
    lines = [made, f"mount --bind {shlex.quote(str(source))} {at}"]
    if read_only:
        lines.append(f"mount -o remount,bind,ro {at}")
    return "\n".join(lines)


@cache
def missing() -> str:
    """Why this machine cannot do that; empty where it can."""
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "pivot_root", "mount"))):
        return "this needs the namespaces of Linux, and util-linux"
    inner = f"mount -t tmpfs none /mnt && unshare --user --map-user={USER} --map-group={USER} true"
    tried = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    return f"this machine does not let us have namespaces: {done.stderr.strip()}" if done.returncode else ""
