"""A server of completions that costs next to nothing, in a process of its own: what is measured is who asks it.

Run as a script it serves at a free port of loopback, and prints it. ``--slots`` adapters are there at once, the others
take ``--load-ms``; with ``--owned-by lora-cli`` it says so in headers.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BASE = "tiny"


class NullServer:
    """One of them, for as long as the block runs."""

    def __init__(self, *argv: object) -> None:
        command = [sys.executable, str(Path(__file__)), *map(str, argv)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class _Answers:
    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.adapters = asked.names or [f"a{number}" for number in range(asked.adapters)]
        self.held: OrderedDict[str, None] = OrderedDict()
        self.loaded: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                verb, path, _ = first.split()
                if verb == "GET":
                    self._json(writer, *self._got(path))
                else:
                    await self._complete(writer, json.loads(body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _got(self, path: str) -> tuple[int, Any]:
        if path == "/v1/models":
            parents = {BASE: None} | dict.fromkeys(self.adapters, BASE)
            owner = {"object": "model", "owned_by": self.asked.owned_by}
            return 200, {"data": [{"id": name, "parent": parent, **owner} for name, parent in parents.items()]}
        if path == "/v1/status" and self.asked.owned_by == "lora-cli":
            return 200, {"device": "cpu", "dtype": "float32"}
        if path == "/version":
            return 200, {"version": "0.33.0"}
        return 404, {"detail": "Not Found"}

    async def _complete(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        name, prompt = body["model"], body["prompt"]
        if self.asked.owned_by == "sglang" and name != BASE:
            parent, _, name = name.partition(":")
            name = name if parent == BASE else ""
        if name not in {BASE, *self.adapters}:
            self._json(writer, 404, {"error": {"message": f"The model `{name}` does not exist.", "code": 404}})
        elif name in self.asked.fails:
            self._json(writer, 500, {"error": {"message": "it broke", "code": 500}})
        else:
            await self._stream(writer, name, len(prompt), body["max_tokens"])

    async def _stream(self, writer: asyncio.StreamWriter, name: str, tokens_in: int, tokens_out: int) -> None:
        headers = await self._had(name)
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{headers}".encode())
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(tokens_out):
            _chunk(writer, {"choices": [{"text": "x"}]})
        _chunk(writer, {"choices": [], "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def _had(self, name: str) -> str:
        """The headers that say where the adapter was; it is brought into a slot first."""
        if name == BASE:
            return ""
        tier = "gpu" if name in self.held else "cpu" if name in self.loaded else "disk"
        took = {"gpu": 0.0, "cpu": self.asked.load_ms / 4, "disk": self.asked.load_ms}[tier]
        if took:
            await asyncio.sleep(took / 1e3)
        self.loaded.add(name)
        self.held[name] = None
        self.held.move_to_end(name)
        if len(self.held) > self.asked.slots:
            self.held.popitem(last=False)
        told = self.asked.owned_by == "lora-cli"
        return f"x-lora-tier: {tier}\r\nx-lora-load-ms: {took:.3f}\r\n" if told else ""

    @staticmethod
    def _json(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)


def _chunk(writer: asyncio.StreamWriter, value: Any) -> None:
    data = b"data: " + json.dumps(value).encode() + b"\n\n"
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def _main(asked: argparse.Namespace) -> None:
    server = await asyncio.start_server(_Answers(asked).serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--owned-by", default="vllm")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--load-ms", type=float, default=0.0)
    parser.add_argument("--fails", nargs="*", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_main(_asked()))
