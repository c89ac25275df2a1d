"""The names under which a policy knows the source of a reference: an address may be written in several ways."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lora_cli.core.reference import AdapterRef
from lora_cli.core.web_address import DEEPEST_ENCODING
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.documents.policy import RequiredSignature


def aliases(ref: AdapterRef, settings: Settings) -> Iterator[AdapterRef]:
    """The reference and its other names: a path without links, the repository of a page at the Hub's endpoint."""
    yield ref
    if ref.scheme == "file":
        real = os.path.realpath(ref.location)
        if real != ref.location:
            yield replace(ref, location=real)
    elif ref.scheme in {"https", "http"}:
        from lora_cli.core.addresses import hub_page
        from lora_cli.errors import UsageError

        path = _hub_path(ref, settings)
        if path is not None:
            try:
                page = hub_page(f"hub/{path}", str(ref))
            except UsageError:
                return
            yield AdapterRef("hf", *page)


def _hub_path(ref: AdapterRef, settings: Settings) -> str | None:
    """The path of an address below the Hub's endpoint; all names of the loopback interface are the same host."""
    from lora_cli.core.web_address import is_loopback

    endpoint = settings.hub_endpoint.partition("://")[2].lower()
    location = ref.location
    ours, theirs = (text.partition("/")[0] for text in (endpoint, location))
    if is_loopback(ours) and is_loopback(theirs) and _port(ours) == _port(theirs):
        location = ours + location[len(theirs) :]
    return location[len(endpoint) :].lstrip("/") if f"{location}/".startswith(f"{endpoint}/") else None


def _port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return port if colon and not port.endswith("]") and name else ""


def other_names(ref: AdapterRef, settings: Settings) -> Iterator[AdapterRef]:
    """The Hub repositories and Azure containers that an address may mean, besides its aliases."""
    yield from _repositories(ref, settings)
    yield from _containers(ref)


def entries_for(ref: AdapterRef, settings: Settings) -> "list[RequiredSignature]":
    """The entries of ``require_signature`` in all policies that are for ``ref``, under any of its names."""
    entries = [entry for policy in settings.policies for entry in policy.require_signature]
    if not entries:
        return []
    from lora_cli.core.globs import touches

    known = (*aliases(ref, settings), *other_names(ref, settings))

    def applies(glob: str) -> bool:
        globs = (glob, real_glob(glob)) if ref.scheme == "file" else (glob,)
        return any(touches(one, name) for one in globs for name in known)

    return [entry for entry in entries if entry.sources is None or any(map(applies, entry.sources))]


def _repositories(ref: AdapterRef, settings: Settings) -> Iterator[AdapterRef]:
    """The Hub repositories that an address at its endpoint may mean, however its path is encoded."""
    path = (_hub_path(ref, settings) if ref.scheme in {"https", "http"} else None) or ""
    for _ in range(DEEPEST_ENCODING):
        parts = [part for part in path.replace("\\", "/").split("/") if part]
        parts = parts[parts.index("models") + 1 :] if "models" in parts[:3] else parts
        if len(parts) > 1:
            yield AdapterRef("hf", "/".join(parts[:2]))
        path, before = unquote(path), path
        if path == before:
            return


def _containers(ref: AdapterRef) -> Iterator[AdapterRef]:
    """An Azure container with its storage account, and without if that is the account of the environment."""
    if ref.scheme != "az":
        return
    from lora_cli.sources.credentials import azure_account

    authority, slash, path = ref.location.partition("/")
    container, account = authority.partition("@")[0], azure_account(ref.location, os.environ)
    if account:
        yield replace(ref, location=f"{container}@{account}.dfs.core.windows.net{slash}{path}")
        if account == azure_account("", os.environ):
            yield replace(ref, location=f"{container}{slash}{path}")


def real_glob(glob: str) -> str:
    """A glob over local paths with the links before its first wildcard resolved."""
    if not glob.startswith("file:///"):
        return glob
    path = glob.removeprefix("file://")
    wild = next((at for at, character in enumerate(path) if character in "*?["), len(path))
    stem = path if wild == len(path) else path[: path.rfind("/", 0, wild)]
    return "file://" + os.path.realpath(stem or "/").rstrip("/") + path[len(stem) :]
