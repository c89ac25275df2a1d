"""A machine with secrets, a manifest of somebody else on it, and the server that is to get them."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.answering import Reply, answering
from tests.planted import SECRET, SESSION, Machine

HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\n"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAALICE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION}
ANOTHER_MACHINE = "http://192.0.2.1:9000"


class Evil:
    """A server that keeps what it is sent, and what it says of it."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.endpoint = ""

    def reply(self, request: BaseHTTPRequestHandler) -> Reply:
        self.heard.append((request.path, dict(request.headers)))
        return 404, b"", {}

    @property
    def credentials(self) -> list[str]:
        names = {"authorization", "x-amz-security-token", "proxy-authorization", "cookie", "x-amz-date"}
        sent = [value for _, headers in self.heard for name, value in headers.items() if name.lower() in names]
        return sent + [path for path, _ in self.heard if "delegation" in path or "user.name" in path]


@contextmanager
def evil() -> Iterator[Evil]:
    server = Evil()
    with answering(server.reply) as server.endpoint:
        yield server


def asked(machine: Machine, rule: str, source: str, command: str = "fetch", policy: str = "", **environ: str) -> int:
    """The exit code of a command over a manifest with one rule and one adapter."""
    text = f"{HEAD}{policy}sources:\n  - {{{rule}}}\nadapters:\n  - {{name: x, source: '{source}'}}\n"
    (machine.root / "set.yaml").write_text(text)
    return machine.run(command, "-f", "set.yaml", LORA_CLI_RETRIES="0", **environ)
