"""A server sends a file without an end and tells no size of it: the disk must not fill."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lora_cli.cli.main import main

MIB = 1 << 20
ENDLESS = 400 * MIB
Capture = pytest.CaptureFixture[str]


class Endless(BaseHTTPRequestHandler):
    """``adapter_config.json`` is small; the weights come in chunks, for ever as far as anybody cares."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name not in {"adapter_config.json", "adapter_model.safetensors"}:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            if name == "adapter_config.json":
                self._chunk(b"{}")
            else:
                for _ in range(ENDLESS // MIB):
                    self._chunk(bytes(MIB))
            self._chunk(b"")
        except OSError:
            self.close_connection = True

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


@contextmanager
def endless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/sql"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_cache(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    return tmp_path / "cache"


@pytest.mark.parametrize(("name", "code"), [("KEEP_FREE", 6), ("CACHE_BUDGET", 1), ("MAX_BYTES", 1)])
def test_a_limit_holds_and_nothing_is_left(
    name: str, code: int, a_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    kept = shutil.disk_usage(a_cache.parent).free - 60 * MIB
    monkeypatch.setenv(f"LORA_CLI_{name}", str(kept) if name == "KEEP_FREE" else "20MiB")
    with endless() as url:
        assert main(["fetch", url]) == code
    assert f"LORA_CLI_{name}" in capsys.readouterr().err
    assert in_cache(a_cache) < MIB
