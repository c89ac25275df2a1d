"""SGLang's server, started with ``--enable-lora``. Not run against a real one: written by its documented API.

Source: ``python/sglang/srt/entrypoints/http_server.py`` (0.5.23, read): ``/load_lora_adapter`` and
``/unload_lora_adapter`` answer ``{success, error_message, loaded_adapters}`` with 200 or 400; a request names an
adapter as ``base:adapter``.
"""

from lora_cli.endpoint.client import Refusal
from lora_cli.endpoint.openai import OpenAi
from lora_cli.endpoint.server import Prompt, Said, printable_version
from lora_cli.errors import EndpointError


class Sglang(OpenAi):
    """One SGLang."""

    def version(self) -> str:
        """``/server_info``, or what it was called before."""
        for path in ("/server_info", "/get_server_info"):
            try:
                answer = self.endpoint.get(path)
            except EndpointError:
                continue
            if isinstance(answer, dict) and printable_version(answer.get("version")):
                return printable_version(answer["version"])
        return ""

    def load(self, name: str, path: str) -> None:
        """Read the adapter from ``path``, as SGLang sees it."""
        self._post("/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def replace(self, name: str, path: str) -> None:
        """Unload and load: it has nothing in place. A request in between is refused."""
        self.unload(name)
        self.load(name, path)

    def unload(self, name: str) -> None:
        """Take it away, after the requests that use it."""
        self._post("/unload_lora_adapter", {"lora_name": name})

    def complete(self, name: str, prompt: Prompt, max_tokens: int) -> Said:
        """A greedy answer; an adapter is asked for as ``base:adapter``."""
        parent = next((one.parent for one in self.models() if one.name == name), "")
        return super().complete(f"{parent}:{name}" if parent else name, prompt, max_tokens)

    def _post(self, path: str, body: dict[str, str]) -> None:
        answer = self.endpoint.ask(path, body)
        if isinstance(answer, dict) and answer.get("success") is False:
            words = " ".join(str(answer.get("error_message") or "nothing more").split())[:1000]
            raise Refusal(400, f"{self.endpoint.address} refuses: {words}", words)
