"""The server under test: its adapters and their names, and whether it completes requests."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_cli import parse
from lora_cli.bench.live.load_generator import READ_TIMEOUT_S
from lora_cli.bench.live.requests import token_ids
from lora_cli.bench.trace import Request
from lora_cli.endpoint.address import Address
from lora_cli.endpoint.client import NOT_AN_ENGINE_HINT, Endpoint, Refusal
from lora_cli.endpoint.servers import SERVERS, ServedModel, Server, open_server
from lora_cli.errors import EndpointError
from lora_cli.text import did_you_mean

VOCABULARIES = (1000, 100, 16)
"""Token ids are below one of these: the first that the server takes."""

INVALID_TOKEN_STATUSES = (400, 422, 500)
"""Statuses of servers' responses to an unknown token id."""

FACT_KEYS = ("device", "dtype")


@dataclass(frozen=True, slots=True)
class Target:
    """A server: ``models`` has its name of each adapter, ``base`` is its base ("" if it lists none).

    ``engine`` is ``vllm``, ``sglang`` or ``lora-cli``, "" where it does not say; ``facts`` are the other facts that it
    reports.
    """

    address: Address
    token: str
    engine: str
    base: str
    models: Mapping[str, str]
    facts: Mapping[str, str]


def find_target(address: Address, token: str, names: Sequence[str]) -> Target:
    """The server at ``address`` with these adapters, or with all that it lists.

    Raises:
        EndpointError: there is no answer, or it does not serve that adapter, or none at all.
    """
    endpoint = Endpoint(address, token)
    engine = _engine(endpoint)
    server = open_server(engine or "vllm", endpoint)
    served = server.models()
    chosen = _chosen(served, names, str(address))
    base = next((one.name for one in served if not one.parent), "")
    models = {one.name: f"{one.parent}:{one.name}" if engine == "sglang" else one.name for one in chosen}
    return Target(address, token, engine, base, models, _facts(server, engine))


def max_loras_of(target: Target) -> int | None:
    """Adapters that its device holds at once, by its metrics (vLLM's ``vllm:lora_requests_info``), if known.

    vLLM reports it once it has answered for an adapter.
    """
    if target.engine != "vllm":
        return None
    endpoint = Endpoint(target.address, target.token)
    try:
        text = endpoint.request("GET", "/metrics").decode("utf-8", "replace")
    except EndpointError:
        return None
    facts = re.findall(r'^vllm:lora_requests_info\{[^}\n]*\bmax_lora="(\d{1,6})"', text, re.MULTILINE)
    return int(facts[-1]) or None if facts else None


def _engine(endpoint: Endpoint) -> str:
    """The kind of server, by ``owned_by`` in its ``/v1/models``."""
    try:
        listed = parse.objects(endpoint.get("/v1/models"), "data")
    except Refusal as error:
        if error.status == 404:
            raise EndpointError(error.message, hint=NOT_AN_ENGINE_HINT) from error
        raise
    return next((owner for one in listed if (owner := str(one.get("owned_by"))) in SERVERS), "")


def _chosen(served: Sequence[ServedModel], names: Sequence[str], where: str) -> list[ServedModel]:
    adapters = {one.name: one for one in served if one.parent}
    if not names:
        if not adapters:
            raise EndpointError(
                f"{where} serves no adapters", hint="load them first: lora-cli warm -f set.yaml --endpoint URL"
            )
        return list(adapters.values())
    known = adapters | {one.name: one for one in served if not one.parent}
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise EndpointError(f"{where} serves no model {name!r}, of {len(known)}", hint=near or "see /v1/models")
    return [known[name] for name in dict.fromkeys(names)]


def find_vocabulary(target: Target, first: Request) -> int:
    """The largest of ``VOCABULARIES`` whose ids the base takes, in a request of the lengths of the first one.

    Raises:
        EndpointError: it completes nothing of that kind.
    """
    if not target.base:
        return VOCABULARIES[0]
    draw = random.Random(0)  # noqa: S311 - a prompt, not a secret
    endpoint = Endpoint(target.address, target.token, READ_TIMEOUT_S)
    server = open_server(target.engine or "vllm", endpoint)
    for vocabulary in VOCABULARIES:
        prompt = (*token_ids(draw, max(first.prompt_tokens, 1) - 1, vocabulary), vocabulary - 1)
        try:
            server.complete(target.base, prompt, max(first.output_tokens, 1))
        except Refusal as error:
            if error.status not in INVALID_TOKEN_STATUSES or vocabulary == VOCABULARIES[-1]:
                raise
        else:
            return vocabulary
    raise AssertionError


def _facts(server: Server, engine: str) -> dict[str, str]:
    """Its version if it reports one; of our own, where its slots are."""
    facts: dict[str, str] = {"engine": engine or "unknown"}
    if engine == "lora-cli":
        fields = parse.mapping(server.endpoint.get("/v1/status"), "/v1/status")
        return facts | {key: fields[key] for key in FACT_KEYS if isinstance(fields.get(key), str) and fields[key]}
    version = server.version()
    return facts | ({"engine_version": version} if version else {})
