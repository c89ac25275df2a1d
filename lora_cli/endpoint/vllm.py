"""vLLM's OpenAI server, started with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``.

Source: ``vllm/entrypoints/serve/lora/api_router.py`` and ``entrypoints/openai/models/serving.py`` (0.32, run).
"""

from typing import Any

from lora_cli.endpoint.client import Refusal
from lora_cli.endpoint.openai import OpenAi
from lora_cli.endpoint.server import printable_version
from lora_cli.errors import EndpointError

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
SWITCH = "start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora and one API server"


class Vllm(OpenAi):
    """One vLLM."""

    def version(self) -> str:
        """``/version``."""
        try:
            answer = self.endpoint.get("/version")
        except EndpointError:
            return ""
        return printable_version(answer.get("version")) if isinstance(answer, dict) else ""

    def load(self, name: str, path: str) -> None:
        """Read the adapter from ``path``, as vLLM sees it, onto the device."""
        self._post(LOAD, {"lora_name": name, "lora_path": path})

    def replace(self, name: str, path: str) -> None:
        """In place: no request in between finds nothing. What vLLM caches of prompts is kept by name and path."""
        self._post(LOAD, {"lora_name": name, "lora_path": path, "load_inplace": True})

    def unload(self, name: str) -> None:
        """Take the name away."""
        self._post(UNLOAD, {"lora_name": name})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        try:
            self.endpoint.request("POST", path, body)
        except Refusal as error:
            if error.status == 404 and error.words in {"Not Found", "nothing more"}:
                raise Refusal(error.status, f"{self.endpoint.address} has no {path}", "", hint=SWITCH) from error
            raise
