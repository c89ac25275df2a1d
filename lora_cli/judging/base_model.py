"""The base model that adapters are validated against, and its weights if they are on this disk."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.adapter.config import LoraConfig
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import AccessDenied, LoraCliError, Offline, UsageError
from lora_cli.fetching import gate
from lora_cli.fetching.pipeline import open_files
from lora_cli.parse import json_object
from lora_cli.refs.adapter_files import BASE_CONFIG, CONFIG
from lora_cli.refs.reference import AdapterRef, hub_words, ref_of, repository_of
from lora_cli.refs.request import BASE, LockedAdapter, Request
from lora_cli.settings import Settings
from lora_cli.sources.files import Files, files_at
from lora_cli.sources.registry import Sources
from lora_cli.text import cut, safe

if TYPE_CHECKING:
    from lora_cli.adapter.safetensors import TensorInfo

_OPENING = threading.Lock()
"""Held while a base is opened: adapters of one base wait for it and do not ask for it again."""


def open_base(base: str | AdapterRef, settings: Settings, *, locked: LockedAdapter | None = None) -> BaseModel:
    """The base model that ``base`` names: a directory, a ``config.json``, a Hub id or any reference.

    Only its config is read, never weights. The config of a ``locked`` base is that of the lock, and nothing is asked.

    Raises:
        NotFound, AccessDenied, Unreachable, FormatError: it cannot be found or read.
    """
    from lora_cli.base.families import base_from_config
    from lora_cli.base.reading import read_base

    ref = ref_of(base)
    name = ref.name if isinstance(base, AdapterRef) and ref.scheme == "file" else str(base)
    if locked is not None:
        model = base_from_config(json_object(locked.config.encode(), BASE_CONFIG), name)
        return replace(model, repository=repository_of(ref))
    is_file = ref.scheme == "file" and Path(ref.location).is_file()
    try:
        files = None if is_file else open_files(Request("", ref, selection=BASE), settings, Sources(settings))
        return replace(read_base(files or Path(ref.location), name), repository=repository_of(ref))
    except Offline as error:
        hint = "lora-cli fetch -f locks a manifest's base, or set --base to a folder or a config.json on this disk"
        raise Offline(error.message, hint=hint) from error


def infer_base(requests: Sequence[Request], settings: Settings, command: str) -> str:
    """The repository or folder that the adapters' configs name, for a ``command`` that needs a base.

    Raises:
        UsageError: the configs have no base, several, or one that is neither a Hub repository nor a local folder.
        Refused: a policy does not allow the base.
        LoraCliError: none of the adapters can be read.
    """
    from lora_cli.judging.inspection import inspect_one
    from lora_cli.judging.read import each

    hint = "--base DIRECTORY, config.json or ORG/NAME"
    named, errors = dict[str, str](), list[LoraCliError]()
    for one in each(requests, lambda asked, *run: inspect_one(asked, settings, *run, weights=False), settings):
        if one.error is not None:
            errors.append(one.error)
        if one.adapter and one.adapter.config and (base := one.adapter.config.base_model_name_or_path):
            named.setdefault(base, one.name)
    if len(named) > 1:
        several = " and ".join(f"{safe(cut(base))} ({safe(name)})" for base, name in list(named.items())[:2])
        raise UsageError(f"the adapters are for several bases: {several}", hint=f"select some of them, or set {hint}")
    if not named:
        raise errors[0] if errors else UsageError(f"{command} needs a base model, but no config names one", hint=hint)
    (base,) = named
    if reason := _unreadable(base):
        raise UsageError(f"{command} needs a base model: {reason}", hint=hint)
    # The author of the adapter chose it, not the user.
    gate.refuse(Request("", ref_of(base)), settings)
    return base


def _unreadable(base: str) -> str:
    """Why a base that a config names is neither a Hub repository nor a local folder; empty if it is."""
    is_known = hub_words(base) or os.path.isdir(base)  # noqa: PTH112 - a name that no system takes is no folder
    return "" if is_known else f"{safe(cut(base))} is not on this machine"


class Bases:
    """Base models by the names in adapters' configs, each opened once; ``tp`` is the engine's tensor-parallel size.

    ``way`` is how the user can name a base.
    """

    def __init__(self, settings: Settings, *, tp: int = 1, way: str = "set --base DIR") -> None:
        self._settings, self._tp, self._way = settings, tp, way
        self._known: dict[str, tuple[BaseModel | None, str]] = {}

    def of(self, config: LoraConfig | None) -> tuple[BaseModel | None, str]:
        """The base model that ``config`` names, or why it is unknown.

        Raises:
            UsageError: ``tp`` does not divide its attention heads.
        """
        name = (config.base_model_name_or_path if config is not None else None) or ""
        if reason := _unreadable(name) if name else f"no base is set in {CONFIG}":
            return None, f"base unchecked: {reason}; {self._way}"
        with _OPENING:
            if name not in self._known:
                try:
                    gate.refuse(Request("", ref_of(name)), self._settings)
                    self._known[name] = open_base(name, self._settings), ""
                except LoraCliError as error:
                    enough = ": a folder with its config.json is enough" if isinstance(error, AccessDenied) else ""
                    self._known[name] = None, f"base unchecked: {error.message}; {self._way}{enough}"
        model, why = self._known[name]
        check_tp(model, self._tp)
        return model, why


def check_tp(base: BaseModel | None, tp: int) -> None:
    """Engines give each GPU whole attention heads.

    Raises:
        UsageError: ``tp`` does not divide the heads of ``base``.
    """
    if base is not None and base.heads is not None and base.heads % tp:
        message = f"--tp {tp} does not divide the {base.heads} attention heads of {base.name}"
        raise UsageError(message, hint="no engine would start")


def open_checkpoint(ref: AdapterRef, settings: Settings) -> "tuple[Files, dict[str, TensorInfo]] | None":
    """The files of a base and its tensors by their names on disk; None if they are not on this disk as safetensors.

    They are in a folder, or, of a Hub repository, in the cache of huggingface_hub.

    Raises:
        LoraCliError: they cannot be read.
    """
    from lora_cli.base.checkpoint import read_checkpoint

    if ref.scheme not in {"hf", "file"} or Path(ref.location).is_file():
        return None
    source = Sources(replace(settings, offline=True)).of(ref)
    try:
        files = Files(source, source.resolve(ref)) if ref.scheme == "hf" else files_at(Path(ref.location))
    except Offline:  # it is not in the cache
        return None
    return (files, tensors) if (tensors := read_checkpoint(files)) else None
