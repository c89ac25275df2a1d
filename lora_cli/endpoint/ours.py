"""``lora-cli warm --serve``: vLLM's paths, and its own proof of each adapter."""

from lora_cli.core import parse
from lora_cli.endpoint.vllm import Vllm


class Ours(Vllm):
    """One of our own servers."""

    def check_ready(self) -> None:
        """``/ready``: what it was started with was tried."""
        self.endpoint.request("GET", "/ready")

    def version(self) -> str:
        """No engine's: PEFT's semantics are its own."""
        return ""

    def proof(self, name: str) -> float | None:
        """The worst error of the forward that it composed, module by module; None when it has not proved it."""
        for one in parse.objects(self.endpoint.get("/v1/adapters"), "adapters"):
            if one.get("name") == name and one.get("proved") is True:
                worst = one.get("worst_error")
                return float(worst) if isinstance(worst, int | float) else None
        return None
