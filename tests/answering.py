"""A server of a few lines, for what no real one can be brought to say."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, bytes, Mapping[str, str]]
"""Status, body and headers."""


class Asked(BaseHTTPRequestHandler):
    """One request, with its body."""

    body = b""


@contextmanager
def answering(
    reply: Callable[[Asked], Reply],
    *,
    keep: threading.Event | None = None,
    prepare: Callable[[ThreadingHTTPServer], None] = lambda _: None,
) -> Iterator[str]:
    """A server that answers every request as ``reply`` says; its address.

    A header without a value is left out. With ``keep`` it leaves each connection open after its answer, until that is
    set. ``prepare`` sees the server before it is asked anything.
    """

    class Handler(Asked):
        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body, headers = reply(self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
                self.wfile.flush()
            if keep is not None and len(body) < int(headers.get("Content-Length", 0)):
                keep.wait(30)

        do_HEAD = do_POST = do_PUT = do_GET

    class Quiet(ThreadingHTTPServer):
        request_queue_size = 128  # of five, a busy machine refuses some that come at once

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients go when they have heard enough."""

    with Quiet(("127.0.0.1", 0), Handler) as running:
        prepare(running)
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()
