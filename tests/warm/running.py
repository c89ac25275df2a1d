"""A real ``lora-cli warm --serve`` in a process of its own, and what is asked of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

PATIENCE_S = 240.0


def free_port() -> int:
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        port: int = ours.getsockname()[1]
        return port


class Running:
    """One server at a port of loopback, or at ``uds``. Ends with the block."""

    def __init__(
        self,
        folder: Path,
        *argv: object,
        uds: Path | None = None,
        host: str = "127.0.0.1",
        options: Sequence[str] = (),
        token: str = "",
        **environ: str,
    ) -> None:
        self.folder, self.uds, self.port, self.token = folder, uds, free_port(), token
        self.ready_file, self.log = folder / "ready", folder / "log"
        self.ready_file.unlink(missing_ok=True)  # a server in the same folder was killed
        at = f"unix:{uds}" if uds is not None else f"{host}:{self.port}"
        listen = ["--serve", "--device", "cpu", "--listen", at]
        words = ["--cache-dir", str(folder / "cache"), *options, "warm", *map(str, argv), *listen]
        self.out = self.log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lora_cli", *words, "--ready-file", str(self.ready_file)],
            stdout=self.out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LORA_CLI_API_KEY": token, **environ},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.out.close()

    def until_ready(self) -> Self:
        def ready() -> bool:
            assert self.process.poll() is None, self.said()
            return self.ready_file.exists()

        self.until(ready)
        return self

    def said(self) -> str:
        return self.log.read_text()

    def ask(self, method: str, path: str, body: Any = None, **headers: str | bytes) -> httpx2.Response:
        sent = [(b"authorization", f"Bearer {self.token}".encode())] if self.token else []
        sent += [
            (name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()
        ]
        transport = httpx2.HTTPTransport(uds=str(self.uds) if self.uds is not None else None)
        with httpx2.Client(transport=transport, timeout=PATIENCE_S) as client:
            url = f"http://localhost:{self.port}{path}"
            return client.request(method, url, json=body, headers=sent)

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return self.ask("POST", path, body)

    def load(self, name: str, path: object, **more: Any) -> httpx2.Response:
        return self.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(path), **more)

    def status(self) -> dict[str, Any]:
        value: dict[str, Any] = self.ask("GET", "/v1/status").json()
        return value

    def adapter(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.status()["adapters"]
        return next(one for one in found if one["name"] == name)

    def until(self, holds: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < until, self.said()
            time.sleep(0.02)

    def ids(self, model: str, prompt: Any, **more: Any) -> list[int]:
        """The token ids of an answer."""
        body = {"max_tokens": 6, "return_token_ids": True, "ignore_eos": True, **more}
        answer = self.post("/v1/completions", model=model, prompt=prompt, **body)
        assert answer.status_code == 200, answer.text
        found: list[int] = answer.json()["choices"][0]["token_ids"]
        return found

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def error_of(response: httpx2.Response) -> tuple[int, str]:
    value = json.loads(response.text)["error"]
    assert value["code"] == response.status_code
    return response.status_code, value["message"]
