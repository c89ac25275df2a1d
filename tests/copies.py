"""Python processes as copies of one that has imported what they import: three seconds less for each that needs torch.

A copy has its own command line, environment, streams, signals and exit status, as a new process has. But whoever starts
it is not its parent: what is proved of parents, of imports or of the start itself needs a new process.
"""

import atexit
import gc
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "torch": ["lora_cli.runtime.worker_process"],
    "rest": [
        *("lora_cli.cli.main", "lora_cli.cli.bench_warm", "lora_cli.cli.warm_once", "lora_cli.cli.warm_serve"),
        *("lora_cli.serving.server", "lora_cli.serving.admission_child", "lora_cli.validation.validate"),
    ],
}
"""What each of the two originals has imported. A server is smaller without torch."""

START = """
import sys
from tests import copies

job = copies.main(*sys.argv[1:])
sys.argv[:] = job["argv"]
exec(compile(job["code"], "<string>", "exec"))
"""

COMMAND = """#!{python} -IS
import json, os, signal, socket, sys

told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
told.connect({at!r})
code = "from lora_cli.__main__ import run; run()"
said = {{"code": code, "argv": ["lora-cli", *sys.argv[1:]], "environ": dict(os.environ), "folder": os.getcwd()}}
job = os.memfd_create("job")
os.write(job, json.dumps({{**said, "numbers": [0, 1, 2], "new_session": False}}).encode())
socket.send_fds(told, [b"job"], [job, 0, 1, 2])
pid = int(told.recv(16))
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
ended = os.waitstatus_to_exitcode(int(told.recv(16)))
if ended < 0:
    signal.signal(-ended, signal.SIG_DFL)
    os.kill(os.getpid(), -ended)
sys.exit(ended)
"""
"""A ``lora-cli`` for shells: it has a copy made, passes signals on, and ends as the copy does."""

KNOWN = frozenset({*sys.path, str(ROOT), ""})
_folder = ""
LEFT_ALONE = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
NEW = subprocess.Popen


class Popen(subprocess.Popen[Any]):
    """As ``subprocess.Popen``, but a Python program without unusual options is a copy."""

    _told: socket.socket | None = None

    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any, *rest: Any
    ) -> None:
        cwd, env, _startup, _flags, _shell, *pipes = rest[:11]
        environ = os.environ if env is None else env
        if preexec_fn is not None or (found := program(args, environ)) is None:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, *rest)  # type: ignore[misc]
            return
        kind, code, argv = found
        streams = [own if given == -1 else given for own, given in enumerate((pipes[0], pipes[3], pipes[5]))]
        job = {
            "code": code, "argv": argv, "environ": dict(environ), "folder": os.fspath(cwd or Path.cwd()),
            "numbers": [0, 1, 2, *pass_fds], "new_session": rest[-2],
        }  # fmt: skip
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._told.connect(f"{originals()}/{kind}")
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(job).encode())
            file.flush()
            socket.send_fds(self._told, [b"job"], [file.fileno(), *streams, *pass_fds])
            self.pid = int(self._told.recv(16))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._told is None:
            pid, status = super()._try_wait(wait_flags)  # type: ignore[misc]
            return pid, status
        if wait_flags & os.WNOHANG and not select.select([self._told], [], [], 0)[0]:
            return 0, 0
        status = int(self._told.recv(16) or signal.SIGKILL)  # nothing: the original is gone
        self._told.close()
        return self.pid, status

    def _internal_poll(self, _deadstate: int | None = None, **named: Any) -> int | None:
        if self._told is not None:
            named["_waitpid"] = lambda _pid, flags: self._try_wait(flags)
        code: int | None = super()._internal_poll(_deadstate, **named)  # type: ignore[misc]
        return code


def program(args: Any, environ: Mapping[str, str]) -> tuple[str, str, list[str]] | None:
    """Of which kind a Python program is, its code and its arguments; None if it needs a process of its own."""
    words = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
    rest = [word for word in words[1:2] if word != "-P"] + words[2:]
    usual = KNOWN.issuperset(environ.get("PYTHONPATH", "").split(os.pathsep)) and _read(environ) == _read(os.environ)
    if words[:1] != [sys.executable] or rest[:1] not in (["-c"], ["-m"]) or not usual:
        return None
    if rest[0] == "-m":
        return "rest", f"import runpy; runpy.run_module({rest[1]!r}, run_name='__main__', alter_sys=True)", rest[1:]
    return "torch" if KINDS["torch"][0] in rest or "torch" in rest[1] else "rest", rest[1], ["-c", *rest[2:]]


def _read(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that the interpreter reads when it starts, but for those that a copy heeds too."""
    heeded = {*LEFT_ALONE, *(["PYTHONIOENCODING"] if environ.get("PYTHONIOENCODING") == "utf-8" else [])}
    return {name: said for name, said in environ.items() if name.startswith("PYTHON") and name not in heeded}


def originals() -> str:
    """The folder in which the two originals listen. They end with this process."""
    global _folder  # noqa: PLW0603
    if not _folder:
        folder = tempfile.mkdtemp(prefix="copies-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        command, environ = [sys.executable, "-c", START, folder], {**os.environ, "GOMP_SPINCOUNT": "1000"}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started = [subprocess.Popen([*command, kind], cwd=ROOT, env=environ, **pipes) for kind in KINDS]
        for process in started:
            atexit.register(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        _folder = folder
    return _folder


@cache
def command_folder() -> Path:
    """A folder for ``PATH``, whose ``lora-cli`` is a copy."""
    folder = Path(originals(), "bin")
    folder.mkdir()
    command = folder / "lora-cli"
    command.write_text(COMMAND.format(python=sys.executable, at=f"{originals()}/rest"))
    command.chmod(0o755)
    return folder


@contextmanager
def copied() -> Iterator[None]:
    """Within the block, ``subprocess`` makes copies."""
    originals()
    usual, subprocess.Popen = subprocess.Popen, Popen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = usual  # type: ignore[misc]


class Original:
    """The process that is copied. ``serve`` comes back in each copy, with what is to be run."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(path)
        self._socket.listen(64)
        self._asked: dict[int, socket.socket] = {}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._woken, wakes = socket.socketpair()
        wakes.setblocking(False)
        self._wakes = wakes
        signal.set_wakeup_fd(wakes.fileno())

    def serve(self) -> dict[str, Any]:
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._woken.fileno(), 0], [], [])
            if 0 in ready:
                os._exit(0)
            if self._woken.fileno() in ready:
                self._woken.recv(1024)
            self._reap()
            if self._socket.fileno() in ready:
                connection, _ = self._socket.accept()
                _, fds, _, _ = socket.recv_fds(connection, 16, 64)
                if (pid := os.fork()) == 0:
                    for one in (self._socket, self._woken, self._wakes, connection, *self._asked.values()):
                        one.detach()  # the number may soon be another file's
                    return become(fds)
                for fd in fds:
                    os.close(fd)
                self._asked[pid] = connection
                connection.send(str(pid).encode())

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with self._asked.pop(ended[0]) as connection, suppress(OSError):
                    connection.send(str(ended[1]).encode())


def become(fds: list[int]) -> dict[str, Any]:
    """Makes this copy what a new process would be; gives what it is to run."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job: dict[str, Any] = json.loads(os.pread(fds[0], 1 << 24, 0))
    numbers = job["numbers"]
    above = max(*numbers, *fds) + 1
    for at, fd in enumerate(fds[1:]):
        os.dup2(fd, above + at)
    for low, high in ((3, above), (above + len(numbers), 1 << 16)):
        os.closerange(low, high)
    for at, number in enumerate(numbers):
        os.dup2(above + at, number)
        os.close(above + at)
    if job["new_session"]:
        os.setsid()
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environ"])
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        errors, buffering = ("backslashreplace", 1) if fd == 2 else ("strict", -1)
        stream = os.fdopen(fd, "w" if fd else "r", buffering, "utf-8", errors, closefd=False)
        if fd and unbuffered:
            stream.reconfigure(write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return job


def run_commands() -> None:
    """Command lines that import most of what there is: a module is imported when it is used."""
    from lora_cli import redaction
    from lora_cli.cli.main import main

    adapter, base = str(ROOT / "manifests/quickstart/pirate"), str(ROOT / "manifests/quickstart/smollm2-135m")
    nowhere = io.TextIOWrapper(io.BytesIO())
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(nowhere), redirect_stderr(nowhere):
        cache = ["--cache-dir", folder]
        validate = [*cache, "validate", adapter, "--base", base, "--engine", "vllm"]
        for words in (
            validate,
            [*validate, "--format", "sarif"],
            [*cache, "inspect", adapter],
            [*cache, "fetch", adapter],
        ):
            main(words)
    redaction.forget()


def main(folder: str, kind: str) -> dict[str, Any]:
    """Imports what this kind imports, and waits until it is a copy."""
    global _folder  # noqa: PLW0603
    for name in KINDS[kind]:
        import_module(name)
    if kind == "rest":
        run_commands()
    assert not {"huggingface_hub", "fsspec"} & sys.modules.keys(), "they read the environment when they are imported"
    _folder = folder
    subprocess.Popen = Popen  # type: ignore[misc]
    original = Original(f"{folder}/{kind}")
    gc.collect()
    gc.freeze()
    os.write(1, b"ready\n")
    return original.serve()
