"""A stand-in for a running engine: vLLM's or SGLang's documented API over a port of loopback.

It reads each adapter's config from the path that it is given, as they do, and answers by what it read: an adapter whose
``lora_alpha`` is 0 changes nothing, and none that is loaded while the engine is ``idle``. ``down_for`` requests of its
health fail first; with a ``page`` it is no engine: that is all it answers. ``sees`` is where what it has at ``mounted``
lies here. ``ranks`` are the data-parallel ranks of its metrics, or of several such servers behind one address.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BASE = "tiny"


class Engine:
    """One engine of ``kind``; a context manager. ``said`` are the requests that changed what it serves."""

    def __init__(self, kind: str = "vllm", *, version: str = "0.32.0", down_for: int = 0, token: str = "") -> None:
        self.kind, self.version, self.down_for, self.token = kind, version, down_for, token
        self.owner, self.root = kind, "/models/tiny"
        self.adapters: dict[str, tuple[str, float]] = {}
        self.pinned: set[str] = set()
        self.said: list[tuple[str, str]] = []
        self.refuses: dict[str, str] = {}
        self.noisy = self.idle = self.fixed = False
        self.flags: dict[str, int] = {}
        self.sees: Path | None = None
        self.mounted = "/adapters"
        self.steps = 0
        self.page: tuple[int, str] | None = None
        self.ranks: list[list[int]] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(engine.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if engine.token and self.headers["authorization"] != f"Bearer {engine.token}":
                    self._answer((401, {"error": "Unauthorized"}))
                    return
                self._answer(engine.post(self.path, body))

            def _answer(self, answer: tuple[int, Any]) -> None:
                status, value = answer
                data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Engine":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def get(self, path: str) -> tuple[int, Any]:
        if self.page:
            return self.page
        if path == "/health":
            self.down_for -= 1
            return (503 if self.down_for >= 0 else 200), ""
        if path in {"/version", "/server_info"}:
            return 200, {"version": self.version, **self.flags}
        if path == "/metrics" and self.ranks:
            # Behind a balancer each request is of another server.
            self.ranks.append(self.ranks.pop(0))
            return 200, "".join(
                f'vllm:num_requests_running{{engine="{rank}",model_name="tiny"}} 0.0\n' for rank in self.ranks[0]
            )
        if path == "/v1/models":
            own: dict[str, Any] = {"object": "model", "owned_by": self.owner}
            cards = [{**own, "id": BASE, "root": self.root, "parent": None}]
            cards += [{**own, "id": name, "root": root, "parent": BASE} for name, (root, _) in self.adapters.items()]
            return 200, {"object": "list", "data": cards}
        return 404, {"detail": "Not Found"}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/completions":
            return self._complete(body)
        verb = path.removeprefix("/v1/" if self.kind == "vllm" else "/")
        if self.fixed or verb not in {"load_lora_adapter", "unload_lora_adapter"}:
            return 404, {"detail": "Not Found"}
        name = body["lora_name"]
        if verb == "unload_lora_adapter":
            if self.adapters.pop(name, None) is None:
                return self._refused(404, f"The lora adapter '{name}' cannot be found.")
            self.pinned.discard(name)
            self.said.append(("unload", name))
            return self._done(f"Success: LoRA adapter '{name}' removed successfully.")
        if name in self.refuses:
            return self._refused(500, self.refuses[name])
        if name in self.adapters and not (self.kind == "vllm" and body.get("load_inplace")):
            return self._refused(400, f"The lora adapter '{name}' has already been loaded.")
        folder = Path(body["lora_path"])
        if self.sees is not None and folder.is_relative_to(self.mounted):
            folder = self.sees / folder.relative_to(self.mounted)
        elif self.sees is not None:
            return self._refused(404, f"No adapter found for {folder}")
        config = json.loads((folder / "adapter_config.json").read_text())
        self.adapters[name] = (
            body["lora_path"],
            0.0 if self.idle else config["lora_alpha"] * (1 + len(str(sorted(config["target_modules"])))),
        )
        if self.kind == "sglang" and body.get("pinned", False):
            self.pinned.add(name)
        self.said.append(("load", name))
        return self._done(f"Success: LoRA adapter '{name}' added successfully.")

    def _done(self, words: str) -> tuple[int, Any]:
        return (200, words) if self.kind == "vllm" else (200, {"success": True, "error_message": ""})

    def _refused(self, status: int, words: str) -> tuple[int, Any]:
        if self.kind == "vllm":
            return status, {"error": {"message": words, "type": "x", "param": None, "code": status}}
        return 400, {"success": False, "error_message": words}

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["model"] if self.kind == "vllm" else body["model"].partition(":")[2] or BASE
        if name != BASE and name not in self.adapters:
            return 404, {"error": {"message": f"The model `{name}` does not exist.", "code": 404}}
        # The base, asked twice, is never the same, whoever else asks meanwhile.
        self.steps += self.noisy and name == BASE
        shift = self.adapters[name][1] if name != BASE and body["temperature"] == 0 else 0.0
        logprobs = [-1.0 - 0.001 * shift - 0.5 * (self.steps % 2)]
        words = ["one"]
        choice = {"text": " ".join(words), "logprobs": {"tokens": words, "token_logprobs": logprobs}, "index": 0}
        return 200, {"choices": [choice]}
