"""Python processes as copies of one that has imported what they import: three seconds less for each that needs torch.

A copy has its own command line, environment, streams, signals and exit status, as a new process has. But whoever starts
it is not its parent: what is proved of parents, of imports or of the start itself needs a new process.
"""

import atexit
import concurrent.futures
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
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import IO, Any

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


OPTIONS = frozenset({
    "args", "bufsize", "stdin", "stdout", "stderr", "cwd", "env", "text", "universal_newlines", "encoding", "errors",
    "pass_fds", "start_new_session", "close_fds",
})  # fmt: skip
"""What may be said of a program that becomes a copy."""


class Popen(subprocess.Popen[Any]):
    """As ``subprocess.Popen``, but a Python program without unusual options is a copy."""

    def __new__(cls, args: Any, *_more: Any, **named: Any) -> "Popen":
        environ = os.environ if named.get("env") is None else named["env"]
        usual = named.keys() <= OPTIONS and not _more
        return super().__new__(Copy if usual and program(args, environ) is not None else cls)


class Copy(Popen):
    """A copy. Whoever made the original tells when it ends."""

    def __init__(self, args: Any, bufsize: int = -1, **named: Any) -> None:
        self.args, self.returncode = args, None
        self._bufsize, self._named = bufsize, named
        environ = os.environ if named.get("env") is None else named["env"]
        found = program(args, environ)
        assert found is not None
        kind, code, argv = found
        pass_fds = [*named.get("pass_fds", ())]
        job = {
            "code": code, "argv": argv, "environ": dict(environ), "folder": os.fspath(named.get("cwd") or Path.cwd()),
            "numbers": [0, 1, 2, *pass_fds], "new_session": named.get("start_new_session", False),
        }  # fmt: skip
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        weakref.finalize(self, self._told.close)
        self._told.connect(f"{originals()}/{kind}")
        with ExitStack() as theirs, tempfile.TemporaryFile() as file:
            file.write(json.dumps(job).encode())
            file.flush()
            streams = [self._stream(number, theirs) for number in range(3)]
            if named.get("stderr") == subprocess.STDOUT:
                streams[2] = streams[1]
            socket.send_fds(self._told, [b"job"], [file.fileno(), *streams, *pass_fds])
            self.pid = int(self._told.recv(16))
        self._threads = ThreadPoolExecutor(3, "copy")
        self._reads: list[Future[Any] | None] = []
        self._ending = Lock()

    def _stream(self, number: int, theirs: ExitStack) -> int:
        """The copy's end of one of its streams, which is closed here with ``theirs``."""
        name = ("stdin", "stdout", "stderr")[number]
        given: Any = self._named.get(name)
        setattr(self, name, None)
        if given == subprocess.PIPE:
            ends = os.pipe()
            end, ours = ends if number == 0 else ends[::-1]
            text = self._named.get("text") or self._named.get("universal_newlines") or self._named.get("encoding")
            how: dict[str, Any] = {name: self._named.get(name) for name in ("encoding", "errors")} if text else {}
            mode = ("r" if number else "w") + ("" if text else "b")
            setattr(self, name, open(ours, mode, self._bufsize, **how))  # noqa: SIM115, PTH123 - as Popen has them
        elif given == subprocess.DEVNULL:
            end = os.open(os.devnull, os.O_RDWR)
        else:
            own = given in (None, subprocess.STDOUT)
            return number if own else given if isinstance(given, int) else given.fileno()
        theirs.callback(os.close, end)
        return end

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            with self._ending:
                if self.returncode is None:  # no other thread has read it
                    status = int(self._told.recv(16) or signal.SIGKILL)  # nothing: the original is gone
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        until = None if timeout is None else time.monotonic() + timeout
        if not self._reads:
            self._reads = [self._threads.submit(_read_all, one) if one else None for one in (self.stdout, self.stderr)]
            if self.stdin is not None:
                self._threads.submit(self._say, input)
            self._threads.shutdown(wait=False)
        if concurrent.futures.wait([one for one in self._reads if one is not None], timeout).not_done:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if until is None else max(until - time.monotonic(), 0))
        out, err = (one.result() if one else None for one in self._reads)
        return out, err

    def _say(self, text: Any) -> None:
        with suppress(BrokenPipeError), self.stdin as stream:  # type: ignore[union-attr]
            if text:
                stream.write(text)


def _read_all(stream: IO[Any]) -> Any:
    with stream:
        return stream.read()


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
