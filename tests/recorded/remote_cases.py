"""Command lines that meet servers which fail, and base models that are not in a folder or tell less than usual."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from tests.recorded.machine import Case

STATUSES = (400, 401, 403, 404, 410, 416, 429, 451, 500, 503)


def fault_cases() -> Iterator[Case]:
    """An answer to a listing, to a config or to the weights is an error, breaks off, or is not what was promised."""
    wrong: list[dict[str, Any]] = [{"status": status} for status in STATUSES]
    wrong += [{"cut_at": 100}, {"flip_at": 300}, {"status": 302, "headers": {"Location": "http://169.254.169.254/x"}}]
    config, weights = "sql.*adapter_config.json", "sql.*adapter_model.safetensors"
    where = {"hub": ("api .*sql", config, "cdn "), "s3": ("list-type", config, weights), "web": (config, weights)}
    for source, matches in where.items():
        for number, (match, how) in enumerate(product(matches, wrong)):
            if "status" not in how and (source == "web" or match == "list-type"):
                continue
            # One request after the other: which of several are still made after an error is chance.
            argv = ["fetch", "<<sql>>", "<<chat>>", "--jobs", "1", "--format", "json"]
            before = [{"fault": [match, how]}]
            yield Case(f"fault-{source}-{number:02}", source, argv, ["sql", "chat"], before=before)


def base_cases() -> Iterator[Case]:
    """A base model that is remote, is an adapter, has no config, or shares its head with its embedding."""
    tie: dict[str, Any] = {
        "edit": ["bases/llama/config.json", '"tie_word_embeddings": false', '"tie_word_embeddings": true']
    }
    commands = {
        "validate": ["validate", "<<head>>", "<<sql>>", "--engine", "vllm"],
        "inspect": ["inspect", "<<head>>", "<<sql>>"],
        "spectrum": ["inspect", "<<head>>", "<<sql>>", "--spectrum"],
        "repair": ["repair", "<<misnamed>>", "--engine", "vllm", "--check"],
    }
    bases: dict[str, tuple[str, list[Any]]] = {
        "remote": ("<<llama>>", []),
        "adapter": ("<<sql>>", []),
        "weights": ("bases/llama", [{"remove": "bases/llama/config.json"}]),
        "tied": ("bases/llama", [tie]),
        "pickled": ("adapters/pickled", [{"remove": "adapters/pickled/adapter_config.json"}]),
    }
    for source, name, base in product(("folder", "hub", "s3", "web", "cached"), commands, bases):
        local = base in {"weights", "tied", "pickled"}
        if (local != (source == "folder") and base != "adapter") or (source == "web" and name != "validate"):
            continue
        ref, before = bases[base]
        fetched: list[Any] = [["fetch", "<<head>>", "<<sql>>"]] if source == "cached" else []
        argv = [*commands[name], "--base", ref, "--format", "json"]
        published = ["head", "sql", "misnamed", "llama"]
        yield Case(f"base-{source}-{name}-{base}", source, argv, published, before=[*before, *fetched])
