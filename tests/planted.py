"""Secrets planted where a user has them, and the looking for them in all that is left behind."""

import base64
import contextlib
import importlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from urllib.parse import quote

from lora_cli import redaction
from lora_cli.cli.main import main
from tests.sources.raw_servers import forget_environment

TOKEN = "hf_plantedTokenOfAlice0123456789"
SECRET = "plantedSecretAccessKey+of/Alice"
SESSION = "plantedSessionToken0123456789=="
PASSWORD = "plantedPassword7"
SIGNATURE = "plantedSignature0123456789abcdef"
PLANTED = (TOKEN, SECRET, SESSION, PASSWORD, SIGNATURE)
ALWAYS = ["--verbose"]


class Machine:
    """A user's machine: a home, a cache, a working folder, an environment with secrets in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "LORA_CLI_CACHE_DIR": str(root / "cache"),
            "LORA_CLI_RETRIES": "1",
            "LORA_CLI_TIMEOUT": "5s",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HF_TOKEN": TOKEN,
        }
        self.said: list[str] = []

    def run(self, *argv: str, program: str = "", **environ: str) -> int:
        """Runs one command line in this process, or those words with a ``program``; its exit code."""
        words, seen = [*argv, *ALWAYS], {**self.environ, **environ}
        if program:
            command = [sys.executable, "-c", program, *words]
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, cwd=self.root, env=seen, timeout=60
            )
            self.said += [done.stdout, done.stderr]
            return done.returncode
        with mock.patch.dict(os.environ, seen, clear=True), contextlib.chdir(self.root), streams() as said:
            forget()
            code = main(words)
        forget()
        self.said += said
        return code

    def leaks(self, *more: str) -> list[str]:
        """Where a planted secret stands, in any of the forms in which one travels."""
        forms = [form for secret in (*PLANTED, *more) for form in forms_of(secret)]
        texts = {f"said {number}": text.encode() for number, text in enumerate(self.said)}
        for path in self.root.rglob("*"):
            texts[f"the name {path.name}"] = str(path).encode()
            if path.is_file() and path.name not in {"set.yaml", "token"}:
                texts[str(path)] = path.read_bytes()
        return [f"{where}: {form!r}" for where, text in texts.items() for form in forms if form in text]


def forget() -> None:
    """A process knows nothing of an earlier one's secrets and environment."""
    redaction.forget()
    forget_environment()
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        importlib.reload(constants)


@contextmanager
def streams() -> Iterator[list[str]]:
    """What is written to stdout and stderr within the block, by libraries in other languages too."""
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        kept = [(number, os.dup(number)) for number in (1, 2)]
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = (io.TextIOWrapper(os.fdopen(os.dup(file.fileno()), "wb", 0), write_through=True) for file in files)
        for (number, _), file in zip(kept, files, strict=True):
            os.dup2(file.fileno(), number)
        try:
            with out, err, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield said
        finally:
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
            for file in files:
                file.seek(0)
                said.append(file.read().decode(errors="replace"))


def forms_of(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield quote(secret, safe="").encode()
    yield base64.b64encode(secret.encode()).rstrip(b"=")
    yield base64.b64encode(f"alice:{secret}".encode()).rstrip(b"=")
