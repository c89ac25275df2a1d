"""A container as Kubernetes starts it, as far as that matters to the program in it.

The command runs as user 65532 without a capability, in a root file system that is read-only; only the volumes that are
mounted can be written to, at the paths that the manifest names.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.kubernetes.pods import Fields
from tests.sandbox import Mount, start


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
    replace: Mapping[str, str] = field(default_factory=dict)

    def start(self, container: Fields, command: list[str] | None = None) -> "subprocess.Popen[str]":
        """The container's own command, or another one in the same container, as a probe is."""
        environ = {**self.environ, "JOB_COMPLETION_INDEX": str(self.index)}
        for variable in container["env"]:
            if "value" in variable:
                environ[variable["name"]] = variable["value"]
            elif variable["name"] in self.secrets:
                environ[variable["name"]] = self.secrets[variable["name"]]
        words = command or ["lora-cli", *container["args"]]
        words = [re.sub(r"\$\((\w+)\)", lambda name: environ[name[1]], word) for word in words]
        for shown, real in self.replace.items():
            words = [word.replace(shown, real) for word in words]
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        return start(root, self._mounts(container), words, environ)

    def run(self, container: Fields, command: list[str] | None = None) -> tuple[int, str]:
        """Its exit code, and what it said."""
        with self.start(container, command) as process:
            out, _ = process.communicate(timeout=120)
        return process.returncode, out

    @property
    def termination_log(self) -> str:
        """What the last container left for the kubelet."""
        return (self.folder / "termination-log").read_text()

    def _mounts(self, container: Fields) -> list[Mount]:
        log = self.folder / "termination-log"
        log.write_text("")
        mounts = [Mount(log, container.get("terminationMessagePath", "/dev/termination-log"))]
        for mount in container["volumeMounts"]:
            source = self.volumes[mount["name"]] / mount.get("subPath", "")
            source.mkdir(parents=True, exist_ok=True)
            mounts.append(Mount(source, mount["mountPath"], mount.get("readOnly", False)))
        return mounts
