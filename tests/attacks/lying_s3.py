"""An S3 server that lists what another one lists, and sends bytes of its own."""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Listed = tuple[str, bytes]
"""The ETag that is listed, and the bytes that are sent."""


@contextmanager
def lying_s3(bucket: str, objects: Mapping[str, Listed], *, sent: int | None = None) -> Iterator[str]:
    """The endpoint of a server with one bucket: key → ETag and bytes, and after ``sent`` bytes of them nothing more."""
    left = [sent]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            key = unquote(parts.path).removeprefix(f"/{bucket}").lstrip("/")
            if "list-type=2" in parts.query:
                entries = "".join(
                    f"<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>&quot;{etag}&quot;</ETag><Size>{len(data)}</Size></Contents>"
                    for name, (etag, data) in objects.items()
                )
                head = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><IsTruncated>false</IsTruncated>'
                return self._send(200, f"{head}{entries}</ListBucketResult>".encode(), {})
            if key not in objects:
                return self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", {})
            etag, data = objects[key]
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked is None:
                return self._send(200, data, {"ETag": f'"{etag}"'})
            start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            span = {"ETag": f'"{etag}"', "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            return self._send(206, data[start:stop], span)

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            if left[0] is not None and "ETag" in headers:
                if not left[0]:
                    self.send_error(503)
                    return
                body_now, left[0] = body[: left[0]], max(0, left[0] - len(body))
            else:
                body_now = body
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body_now)
            self.close_connection = len(body_now) < len(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
