"""The class that reads each scheme, in one line each."""

import json
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.errors import Offline, UsageError
from lora_cli.refs.reference import FSSPEC, AdapterRef, Scheme, matches
from lora_cli.settings import Settings
from lora_cli.sources import ONLINE, Source

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

SOURCES: Mapping[Scheme, tuple[str, str]] = {
    "file": ("local:LocalSource", ""),
    "hf": ("hub:HubSource", "endpoint_url token_env"),
    "https": ("web:WebSource", "endpoint_url token_env"),
    "http": ("web:WebSource", "endpoint_url token_env"),
    "s3": ("objects:ObjectSource", "endpoint_url region profile anonymous requester_pays"),
    "gs": ("objects:ObjectSource", "endpoint_url token_env anonymous"),
    "az": ("objects:ObjectSource", "endpoint_url token_env anonymous"),
    "oci": ("oci:OciSource", "endpoint_url token_env anonymous"),
    FSSPEC: ("fsspec_source:FsspecSource", "storage_options"),
}
"""Scheme → ``module:Class``, imported only when it is needed, and the keys of ``[[sources]]`` that it heeds."""


def open_source(scheme: Scheme, settings: Settings, rule: "SourceRule | None" = None) -> Source:
    """The source of ``scheme``, with the options of ``rule``, if there is one. Opens no connection.

    Raises:
        UsageError: the rule says what does not concern it.
    """
    path, keys = SOURCES[scheme]
    if rule is not None and (ignored := rule.model_fields_set - {"match", *keys.split()}):
        reason = f"[[sources]] {rule.match}: {scheme}:// does not support {min(ignored)}"
        raise UsageError(reason, hint=f"supported: {', '.join(keys.split()) or 'no keys'}")
    module, _, name = path.partition(":")
    source: Source = getattr(import_module(f"lora_cli.sources.{module}"), name)(settings, rule)
    return source


def rule_of(ref: AdapterRef, settings: Settings) -> "SourceRule | None":
    """The first rule of the settings that matches ``ref``, or None."""
    return next((rule for rule in settings.sources if matches(rule.match, ref)), None)


def endpoint_of(ref: AdapterRef, settings: Settings) -> str:
    """The address that is asked for ``ref``, "" where none is: a rule's, else the one that this user has set."""
    rule = rule_of(ref, settings)
    if ref.scheme in {"s3", "gs", "az"}:
        from lora_cli.sources.cloud_credentials import endpoint_of_account

        return endpoint_of_account(ref.scheme, ref.location, rule) or "https://s3.amazonaws.com" * (ref.scheme == "s3")
    if rule is not None and (rule.endpoint_url or ref.scheme == FSSPEC):
        return (rule.endpoint_url or json.dumps(rule.storage_options, sort_keys=True)).rstrip("/")
    if ref.scheme == "hf":
        return settings.hub_endpoint
    if ref.scheme in {"https", "http"}:
        return f"{ref.scheme}://{ref.location.partition('/')[0]}"
    if ref.scheme == "oci":
        from lora_cli.sources.oci import registry_endpoint

        return registry_endpoint(ref.location)
    return ""


class Sources:
    """The sources of one run: one for each scheme and rule of ``settings.sources``, so that connections are kept.

    Threads share them. With ``roots`` local folders are read only below these.
    """

    def __init__(self, settings: Settings, *, roots: tuple[Path, ...] = ()) -> None:
        self._settings, self._roots = settings, roots
        self._opened: dict[tuple[Scheme, str], Source] = {}
        self._lock = threading.Lock()

    def of(self, ref: AdapterRef) -> Source:
        """The source that ``ref`` is read from.

        Raises:
            UsageError: as ``open_source``.
            Offline: it needs the network, which is switched off.
        """
        if self._roots and ref.scheme == "file":
            from lora_cli.sources.local import LocalSource

            return LocalSource(self._settings, roots=self._roots)
        if self._settings.offline and ref.scheme not in {"file", "hf"}:
            raise Offline(f"{ref} is not cached and offline mode is on", hint=ONLINE)
        rule = rule_of(ref, self._settings)
        key = ref.scheme, rule.match if rule is not None else ""
        with self._lock:
            if key not in self._opened:
                self._opened[key] = open_source(ref.scheme, self._settings, rule)
            return self._opened[key]
