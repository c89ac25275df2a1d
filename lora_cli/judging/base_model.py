"""The base model that adapters are validated against, and its weights if they are on this disk."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.adapter.config import LoraConfig
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import AccessDenied, LoraCliError, NotFound, Offline, UsageError
from lora_cli.fetching import gate
from lora_cli.fetching.pipeline import open_files
from lora_cli.parse import json_object
from lora_cli.refs.adapter_files import BASE_CONFIG, CONFIG
from lora_cli.refs.lock import LockedAdapter
from lora_cli.refs.reference import AdapterRef, hub_words, ref_of, repository_of
from lora_cli.refs.request import BASE, Request
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
    else:
        is_file = ref.scheme == "file" and Path(ref.location).is_file()
        try:
            files = None if is_file else open_files(Request("", ref, selection=BASE), settings, Sources(settings))
            model = read_base(files or Path(ref.location), name)
        except Offline as error:
            hint = "lora-cli fetch -f locks a manifest's base, or set --base to a folder or a config.json on this disk"
            raise Offline(error.message, hint=hint) from error
    return replace(model, repository=repository_of(ref))


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
    results = list(each(requests, lambda asked, *run: inspect_one(asked, settings, *run, weights=False), settings))
    named = {base: one.name for one in reversed(results) if one.adapter and (base := _named(one.adapter.config))}
    if len(named) > 1:
        several = " and ".join(f"{safe(cut(base))} ({safe(name)})" for base, name in [*named.items()][:-3:-1])
        raise UsageError(f"the adapters are for several bases: {several}", hint=f"select some of them, or set {hint}")
    if not named:
        errors = [one.error for one in results if one.error is not None]
        raise errors[0] if errors else UsageError(f"{command} needs a base model, but no config names one", hint=hint)
    (base,) = named
    try:
        _allow(base, settings)
    except NotFound as error:
        raise UsageError(f"{command} needs a base model: {error.message}", hint=hint) from error
    return base


def _named(config: LoraConfig | None) -> str:
    return (config.base_model_name_or_path if config is not None else None) or ""


def _allow(base: str, settings: Settings) -> None:
    """Check that a base may be read which the author of the adapter chose, not the user.

    Raises:
        NotFound: it is neither a Hub repository nor a local folder.
        Refused: a policy does not allow it.
    """
    if not (hub_words(base) or os.path.isdir(base)):  # noqa: PTH112 - a name that no system takes is no folder
        raise NotFound(f"{safe(cut(base))} is not on this machine")
    gate.refuse(Request("", ref_of(base)), settings)


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
        if not (name := _named(config)):
            return None, f"base unchecked: no base is set in {CONFIG}; {self._way}"
        with _OPENING:
            if name not in self._known:
                try:
                    _allow(name, self._settings)
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

    They are in a folder, in a safetensors file, or, of a Hub repository, in the cache of huggingface_hub.

    Raises:
        LoraCliError: they cannot be read.
    """
    from lora_cli.base.checkpoint import WEIGHTS_FILE, read_checkpoint

    path, name = Path(ref.location), WEIGHTS_FILE
    if ref.scheme == "file" and path.is_file():
        path, name = path.parent, path.name
    if ref.scheme not in {"hf", "file"} or not name.endswith(".safetensors"):
        return None
    try:
        cache = Sources(replace(settings, offline=True)).of(ref)
        files = files_at(path) if ref.scheme == "file" else Files(cache, cache.resolve(ref))
    except Offline:  # it is not in the cache
        return None
    return (files, tensors) if (tensors := read_checkpoint(files, name)) else None
