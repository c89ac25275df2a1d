"""Secrets planted where a user has them, and the looking for them in all that is left behind."""

import base64
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

TOKEN = "hf_plantedTokenOfAlice0123456789"
SECRET = "plantedSecretAccessKey+of/Alice"
SESSION = "plantedSessionToken0123456789=="
PASSWORD = "plantedPassword7"
SIGNATURE = "plantedSignature0123456789abcdef"
PLANTED = (TOKEN, SECRET, SESSION, PASSWORD, SIGNATURE)
ALWAYS = ["--verbose", "--no-progress"]


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
        """Runs one command line; its exit code."""
        start = ["-c", program] if program else ["-m", "lora_cli"]
        command, seen = [sys.executable, *start, *argv, *ALWAYS], {**self.environ, **environ}
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.root, env=seen, timeout=60)
        self.said += [done.stdout, done.stderr]
        return done.returncode

    def leaks(self, *more: str) -> list[str]:
        """Where a planted secret stands, in any of the forms in which one travels."""
        forms = [form for secret in (*PLANTED, *more) for form in forms_of(secret)]
        texts = {f"said {number}": text.encode() for number, text in enumerate(self.said)}
        for path in self.root.rglob("*"):
            texts[f"the name {path.name}"] = str(path).encode()
            if path.is_file() and path.name not in {"set.yaml", "token"}:
                texts[str(path)] = path.read_bytes()
        return [f"{where}: {form!r}" for where, text in texts.items() for form in forms if form in text]


def forms_of(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield quote(secret, safe="").encode()
    yield base64.b64encode(secret.encode()).rstrip(b"=")
    yield base64.b64encode(f"alice:{secret}".encode()).rstrip(b"=")


@contextmanager
def refusing_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that asks for a password whatever it is told, and says it back."""
    heard: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(65536))
                told = re.search(rb"Proxy-Authorization: (.*)", heard[-1])
                connection.sendall(b"HTTP/1.1 407 " + (told[1] if told else b"no") + b"\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", heard
    finally:
        listening.close()
