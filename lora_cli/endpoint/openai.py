"""What the servers have in common: OpenAI's ``/v1/models`` and ``/v1/completions``."""

from typing import Any

from lora_cli.core import parse
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.server import Prompt, Said, Served
from lora_cli.errors import EndpointError, FormatError

MOST_MODELS = 1_000_000


class OpenAi:
    """A server with OpenAI's paths."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def check_ready(self) -> None:
        """``/health``."""
        self.endpoint.request("GET", "/health")

    def models(self) -> tuple[Served, ...]:
        """``/v1/models``: adapters have a parent."""
        answer = self.endpoint.get("/v1/models")
        try:
            listed = parse.sequence(parse.mapping(answer, "/v1/models").get("data"), "/v1/models: data")
            return tuple(_served(one) for one in listed[:MOST_MODELS])
        except FormatError as error:
            raise EndpointError(
                f"{self.endpoint.address}: {error.message}", hint="is it a server of this kind?"
            ) from error

    def complete(self, name: str, prompt: Prompt, max_tokens: int) -> Said:
        """A greedy answer, with the log-probability of each of its tokens."""
        body = {"model": name, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": 1}
        answer = self.endpoint.ask("/v1/completions", body)
        try:
            choices = parse.sequence(parse.mapping(answer, "the answer").get("choices"), "choices")
            return _said(parse.mapping(choices[0] if choices else None, "choices[0]"))
        except FormatError as error:
            raise EndpointError(f"{self.endpoint.address}: /v1/completions: {error.message}") from error


def _served(value: Any) -> Served:
    fields = parse.mapping(value, "data")
    name = parse.text(fields.get("id"), "id")
    root, parent = fields.get("root"), fields.get("parent")
    return Served(name, root if isinstance(root, str) else name, parent if isinstance(parent, str) else "")


def _said(choice: dict[str, Any]) -> Said:
    logs = choice.get("logprobs")
    told = logs if isinstance(logs, dict) else {}
    tokens = tuple(str(token) for token in told.get("tokens") or ())
    values = tuple(
        float(value)
        for value in told.get("token_logprobs") or ()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    return Said(parse.text(choice.get("text"), "text"), tokens, values)
