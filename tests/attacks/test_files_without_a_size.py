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


def test_keep_free_holds_and_nothing_is_left(a_cache: Path, tmp_path: Path, capsys: Capture) -> None:
    with endless() as url:
        keep = shutil.disk_usage(tmp_path).free - 60 * MIB
        assert main(["fetch", url, "--keep-free", str(keep)]) == 6
    assert "--keep-free" in capsys.readouterr().err
    assert in_cache(a_cache) < MIB


def test_the_budget_of_the_cache_holds(a_cache: Path, capsys: Capture) -> None:
    with endless() as url:
        assert main(["fetch", url, "--cache-budget", "20MiB"]) == 1
    assert "--cache-budget" in capsys.readouterr().err
    assert in_cache(a_cache) < MIB


def test_max_bytes_leaves_nothing(a_cache: Path, capsys: Capture) -> None:
    with endless() as url:
        assert main(["fetch", url, "--max-bytes", "20MiB"]) == 1
    assert "--max-bytes" in capsys.readouterr().err
    assert in_cache(a_cache) < MIB
