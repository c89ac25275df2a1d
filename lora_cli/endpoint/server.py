"""What is asked of a running server, whichever kind it is; and the kinds that there are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from lora_cli.core.nearest import did_you_mean
from lora_cli.endpoint.client import Endpoint
from lora_cli.errors import UsageError

SERVERS: Mapping[str, str] = {
    "vllm": "lora_cli.endpoint.vllm:Vllm",
    "sglang": "lora_cli.endpoint.sglang:Sglang",
    "lora-cli": "lora_cli.endpoint.ours:Ours",
}
"""Name → ``module:Class``. A server is listed here, in one line, and nowhere else; the class takes an ``Endpoint``."""


Prompt = str | tuple[int, ...]
"""Text, or token ids."""


@dataclass(frozen=True, slots=True)
class Served:
    """One model of a server; ``root`` is where an adapter was loaded from, ``parent`` its base ("" for a base)."""

    name: str
    root: str
    parent: str

    def is_from(self, path: str, digest: str) -> bool:
        """Whether it is the adapter at ``path``, or the snapshot ``digest`` wherever that server has it."""
        root = self.root.rstrip("/")
        return root == path.rstrip("/") or (bool(digest) and root.rpartition("/")[2] == digest)


@dataclass(frozen=True, slots=True)
class Said:
    """A greedy answer: its tokens as text, and their natural log-probabilities (empty where they are not told)."""

    text: str
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()


class Server(Protocol):
    """A running server. Every method raises ``EndpointError``, with the server's own words."""

    endpoint: Endpoint

    def check_ready(self) -> None:
        """Raises ``EndpointError`` while it does not answer requests, with why."""
        ...

    def version(self) -> str:
        """Its version, "" where it does not tell."""
        ...

    def models(self) -> tuple[Served, ...]:
        """The bases and adapters that it serves."""
        ...

    def load(self, name: str, path: str) -> None:
        """Load an adapter under a name that it does not serve yet."""
        ...

    def replace(self, name: str, path: str) -> None:
        """Serve another adapter under a name that it serves, from a path that it has not loaded before."""
        ...

    def unload(self, name: str) -> None:
        """Serve it no longer."""
        ...

    def complete(self, name: str, prompt: Prompt, max_tokens: int) -> Said:
        """A greedy answer by an adapter, or by the base of that name."""
        ...


def open_server(kind: str, endpoint: Endpoint) -> Server:
    """The server of that kind. Raises ``UsageError``: no server is called so."""
    if kind not in SERVERS:
        raise UsageError(f"no server that can be warmed is called {kind!r}", hint=did_you_mean(kind, SERVERS))
    module, _, name = SERVERS[kind].partition(":")
    server: Server = getattr(import_module(module), name)(endpoint)
    return server


def printable_version(value: object) -> str:
    """A version as a server tells it, if it looks like one."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9A-Za-z.+_-]{1,64}", value) else ""
