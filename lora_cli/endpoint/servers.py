"""Running servers: a class each for vLLM and SGLang, both with OpenAI's paths."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lora_cli import parse
from lora_cli.endpoint.client import Endpoint, Refusal
from lora_cli.errors import EndpointError, FormatError, UsageError
from lora_cli.text import did_you_mean

LOOKS = 3
"""How often a vLLM server is asked for its ranks: each time over a connection of its own."""

RUNTIME_UPDATING_HINT = "start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora and one API server"

Prompt = str | tuple[int, ...]
"""Text, or token ids."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of a server; ``root`` is where an adapter was loaded from, ``parent`` its base ("" for a base).

    ``owner`` is the engine, as it calls itself.
    """

    name: str
    root: str
    parent: str
    owner: str

    def is_from(self, path: str, digest: str) -> bool:
        """Whether it is the adapter at ``path``, or the snapshot ``digest`` wherever that server has it."""
        root = self.root.rstrip("/")
        return root == path.rstrip("/") or (bool(digest) and root.rpartition("/")[2] == digest)


@dataclass(frozen=True, slots=True)
class Completion:
    """A greedy answer: its tokens as text, and their natural log-probabilities (empty if they are not reported)."""

    text: str
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()


class Server(ABC):
    """A running server. Every method raises ``EndpointError``, with the server's message.

    Known bugs of an engine are attributes, each with its issue; "" means none. They are open in the newest version
    read, so they apply to every version.
    """

    kind: str
    """Its name in ``--engine``."""

    version_path: str
    """Where it reports its version."""

    unload_bug = ""
    """Why unloading an adapter is unsafe while the server runs."""

    replaces_by_unload = False
    """Whether replacing an adapter unloads the old one."""

    base: ServedModel | None = None
    """The first model without a parent, as ``models`` found it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def note(self, actions: Collection[str], *, pinned: bool) -> str:
        """What it cannot do or say after these actions of ``reconcile``, where the manifest pins adapters or not."""
        return ""

    def check_ready(self) -> None:
        """``/health``: raises ``EndpointError`` with the reason while the server is not ready."""
        self.endpoint.request("GET", "/health")

    def version(self) -> str:
        """Its version, "" where it does not report one."""
        found = self._reported().get("version")
        return found if isinstance(found, str) and re.fullmatch(r"[0-9A-Za-z.+_-]{1,64}", found) else ""

    @abstractmethod
    def check_reach(self) -> None:
        """Raises ``EndpointError`` if a load would not reach all of the server's processes."""

    def models(self) -> tuple[ServedModel, ...]:
        """The bases and adapters that it serves, by ``/v1/models``: adapters have a parent."""
        answer = self.endpoint.get("/v1/models")
        try:
            listed = parse.sequence(parse.mapping(answer, "/v1/models").get("data"), "/v1/models: data")
            found = tuple(map(_served_model, listed))
        except FormatError as error:
            said = f"{self.endpoint.address}: {error.message}"
            raise EndpointError(said, hint="check that this is a server of this kind") from error
        self.base = next((one for one in found if not one.parent), None)
        return found

    def load(self, name: str, path: str, *, pinned: bool = False) -> None:
        """Load an adapter from ``path``, as the server sees it, under a name that it does not serve yet."""
        self._change("load_lora_adapter", lora_name=name, lora_path=path)

    @abstractmethod
    def replace(self, name: str, path: str, *, pinned: bool = False) -> None:
        """Serve another adapter under a name that it serves, from a path that it has not loaded before."""

    def unload(self, name: str) -> None:
        """Unload an adapter."""
        self._change("unload_lora_adapter", lora_name=name)

    def complete(self, name: str, prompt: Prompt, max_tokens: int) -> Completion:
        """A greedy answer by an adapter, or by the base of that name, with its tokens' log-probabilities."""
        body = {"model": name, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": 1}
        answer = self.endpoint.post("/v1/completions", body)
        try:
            choices = parse.sequence(parse.mapping(answer, "the response").get("choices"), "choices")
            return _completion(parse.mapping(choices[0] if choices else None, "choices[0]"))
        except FormatError as error:
            raise EndpointError(f"{self.endpoint.address}: /v1/completions: {error.message}") from error

    @abstractmethod
    def _change(self, verb: str, **body: object) -> None:
        """Ask it to load or unload an adapter."""

    def _reported(self) -> dict[str, Any]:
        """What it reports with its version."""
        try:
            return parse.mapping(self.endpoint.get(self.version_path), self.version_path)
        except (EndpointError, FormatError):
            return {}


class Vllm(Server):
    """vLLM's OpenAI server, started with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``.

    Source: ``vllm/entrypoints/serve/lora/api_router.py`` and ``entrypoints/openai/models/serving.py`` (0.32, run).
    """

    kind, version_path = "vllm", "/version"
    ranks: frozenset[int] = frozenset()
    """The data-parallel ranks behind the address, as ``check_reach`` found them; empty if it reports none."""

    def check_reach(self) -> None:
        """Look at the label ``engine`` of its metrics, which vLLM's server has for each rank that it manages.

        All ranks, from 0 on, are behind one server that balances them itself: a load reaches them. With external or
        hybrid balancing each server has some ranks alone.

        Raises:
            EndpointError: it has other ranks each time, so it is a balancer before several servers.
        """
        seen = {self._ranks() for _ in range(LOOKS)}
        if len(seen) > 1:
            raise EndpointError(
                f"{self.endpoint.address} balances several vLLM servers, of which each loads adapters for itself",
                hint="--endpoint for each of them instead (data parallelism with external or hybrid balancing)",
            )
        (self.ranks,) = seen

    def note(self, actions: Collection[str], *, pinned: bool) -> str:
        """Whether it is one of several servers, what it keeps in memory, and that it does not pin."""
        notes = []
        if self.ranks and 0 not in self.ranks:
            own = ", ".join(map(str, sorted(self.ranks)))
            notes.append(f"it has data-parallel rank {own} alone: the others need an --endpoint, too")
        if {"replaced", "pruned"}.intersection(actions):
            notes.append("vLLM keeps unloaded adapters in memory until others need the space (vllm#54839)")
        if pinned:
            notes.append("keep_loaded has no effect: vLLM has no request for it")
        return "; ".join(notes)

    def _ranks(self) -> frozenset[int]:
        try:
            text = self.endpoint.request("GET", "/metrics").decode("utf-8", "replace")
        except EndpointError:
            return frozenset()
        return frozenset(map(int, re.findall(r'^vllm:\w+\{[^}]*\bengine="(\d{1,6})"', text, re.MULTILINE)))

    def replace(self, name: str, path: str, *, pinned: bool = False) -> None:
        """In place, so no request fails in between. vLLM's prefix cache is keyed by name and path."""
        self._change("load_lora_adapter", lora_name=name, lora_path=path, load_inplace=True)

    def _change(self, verb: str, **body: object) -> None:
        try:
            self.endpoint.request("POST", f"/v1/{verb}", body)
        except Refusal as error:
            if error.status == 404 and error.server_message in {"Not Found", ""}:
                said = f"{self.endpoint.address} has no /v1/{verb}"
                raise Refusal(error.status, said, "", hint=RUNTIME_UPDATING_HINT) from error
            raise


class Sglang(Server):
    """SGLang's server, started with ``--enable-lora``. Run against its HTTP server without a model, never on a GPU.

    Source: ``python/sglang/srt/entrypoints/http_server.py`` (0.5.23): ``/load_lora_adapter`` and
    ``/unload_lora_adapter`` answer ``{success, error_message, loaded_adapters}`` with 200 or 400; a request names an
    adapter as ``base:adapter``.
    """

    kind, version_path = "sglang", "/server_info"
    unload_bug = "SGLang can hang permanently when it unloads an adapter (sglang#36894)"
    replaces_by_unload = True

    def check_reach(self) -> None:
        """Look at the flags that it was started with."""
        flags = self._reported()
        for flag, source in (("tokenizer_worker_num", "sglang#31084"), ("dp_size", "SGLang asserts this")):
            number = flags.get(flag)
            if isinstance(number, int) and number > 1:
                option = f"--{flag.replace('_', '-')}"
                raise EndpointError(
                    f"{self.endpoint.address} runs with {option} {number}: a load reaches only one of them ({source})",
                    hint=f"start it with {option} 1, or with all adapters: lora-cli inspect --engine-args",
                )

    def load(self, name: str, path: str, *, pinned: bool = False) -> None:
        """Read the adapter."""
        pin = {"pinned": True} if pinned else {}
        self._change("load_lora_adapter", lora_name=name, lora_path=path, **pin)

    def replace(self, name: str, path: str, *, pinned: bool = False) -> None:
        """Unload, after the requests that use it, and load: a request in between is refused."""
        self.unload(name)
        self.load(name, path, pinned=pinned)

    def complete(self, name: str, prompt: Prompt, max_tokens: int) -> Completion:
        """A greedy answer; an adapter is asked for as ``base:adapter``."""
        parent = next((one.parent for one in self.models() if one.name == name), "")
        return super().complete(f"{parent}:{name}" if parent else name, prompt, max_tokens)

    def _change(self, verb: str, **body: object) -> None:
        answer = self.endpoint.post(f"/{verb}", body)
        if isinstance(answer, dict) and answer.get("success") is False:
            words = " ".join(str(answer.get("error_message") or "it does not say why").split())[:1000]
            raise Refusal(400, f"{self.endpoint.address} refused: {words}", words)


SERVERS: Mapping[str, type[Server]] = {one.kind: one for one in (Vllm, Sglang)}


def open_server(kind: str, endpoint: Endpoint) -> Server:
    """The server of that kind. Raises ``UsageError`` for an unknown kind."""
    if kind not in SERVERS:
        raise UsageError(f"unknown server {kind!r}", hint=did_you_mean(kind, SERVERS))
    return SERVERS[kind](endpoint)


def detect_kind(endpoint: Endpoint) -> str:
    """The engine that answers there: the owner of its models. Raises ``EndpointError`` where it is another."""
    owners = {one.owner for one in Vllm(endpoint).models()}
    for kind in SERVERS:
        if kind in owners:
            return kind
    raise EndpointError(f"{endpoint.address} does not say which engine it is", hint="add --engine vllm or sglang")


def _served_model(value: Any) -> ServedModel:
    fields = parse.mapping(value, "data")
    name = parse.text(fields.get("id"), "id")
    root, *others = (fields.get(key) for key in ("root", "parent", "owned_by"))
    parent, owner = (one if isinstance(one, str) else "" for one in others)
    return ServedModel(name, root if isinstance(root, str) else name, parent, owner)


def _completion(choice: dict[str, Any]) -> Completion:
    logs = choice.get("logprobs")
    fields = logs if isinstance(logs, dict) else {}
    tokens = tuple(str(token) for token in parse.sequence(fields.get("tokens") or (), "tokens"))
    listed = parse.sequence(fields.get("token_logprobs") or (), "token_logprobs")
    # Of the first token some servers say null.
    values = tuple(parse.number(value, "token_logprobs") for value in listed if value is not None)
    return Completion(parse.text(choice.get("text"), "text"), tokens, values)
