"""The public Python API: ``lora_cli.fetch``, ``validate`` and ``inspect``.

Settings are those of the command line: ``LORA_CLI_…``, the settings file, ``HF_TOKEN`` and the clouds' own credentials.
An error that ends a command is a ``LoraCliError`` here, with that command's exit code.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.settings import Settings, load_settings

if TYPE_CHECKING:
    from lora_cli.adapter.adapter import Adapter
    from lora_cli.judging.read import One, Terms
    from lora_cli.judging.result import Result
    from lora_cli.refs.snapshot import Snapshot

PathLike = str | os.PathLike[str]


def fetch(
    ref: PathLike, *, allow_pickle: bool = False, cache_dir: str | Path | None = None, offline: bool = False
) -> "Snapshot":
    """Downloads an adapter into the cache, complete and verified, unless it is there already.

    Args:
        ref: a path, a Hub id (``org/name[/folder][@revision]``) or an address (``s3://…``), as on the command line.
        allow_pickle: accept ``.bin`` weights where there are no safetensors.
        cache_dir: the cache; without it that of the command line.
        offline: make no network request; without it as ``LORA_CLI_OFFLINE`` says.

    Returns:
        The snapshot; its ``directory`` is what an engine is given.

    Raises:
        LoraCliError: there is no such adapter, a limit or policy refuses it, or this machine cannot store it.
    """
    from lora_cli.fetching.batch import fetch_all
    from lora_cli.inputs import request_of
    from lora_cli.refs.reference import training_run
    from lora_cli.refs.request import Selection
    from lora_cli.store import Store

    settings, run = _settings(cache_dir, offline=offline), training_run(os.fspath(ref))
    request = request_of(run or os.fspath(ref), Selection(allow_pickle=allow_pickle, latest=bool(run)))
    (outcome,) = fetch_all([request], Store(settings.cache_dir), settings)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.fetched is not None
    return outcome.fetched.snapshot


def inspect(ref: PathLike, *, cache_dir: str | Path | None = None, offline: bool = False) -> "Adapter":
    """Reads an adapter's config and header only; of a remote one these are some kilobytes.

    Args:
        ref: a path, a Hub id or an address, as on the command line.
        cache_dir: the cache; without it that of the command line.
        offline: make no network request; without it as ``LORA_CLI_OFFLINE`` says.

    Returns:
        The adapter. What is wrong inside it, or missing, raises nothing: it is in ``config_error`` and
        ``weights_error``.

    Raises:
        LoraCliError: there is no such adapter, or it cannot be reached.
    """
    from lora_cli.errors import FormatError
    from lora_cli.judging.inspection import inspect_one
    from lora_cli.judging.read import Terms
    from lora_cli.refs.adapter_files import CONFIG, WEIGHTS

    settings = _settings(cache_dir, offline=offline)
    adapter = _one(os.fspath(ref), inspect_one, Terms(settings)).adapter
    assert adapter is not None
    if adapter.config is None and adapter.config_error is None:
        adapter = replace(adapter, config_error=FormatError(f"there is no {CONFIG}"))
    if not adapter.weight_files:
        adapter = replace(adapter, weights_error=FormatError(f"there is no {WEIGHTS}"))
    return adapter


def validate(
    ref: PathLike,
    base: PathLike | None = None,
    *,
    engines: Sequence[str] = (),
    max_lora_rank: int | None = None,
    values: bool = True,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> "Result":
    """Checks an adapter against a base model and inference engines, as ``lora-cli validate`` does.

    Args:
        ref: a path, a Hub id or an address, as on the command line.
        base: the base model: a directory, a ``config.json`` or a reference; without one, that of the adapter's config;
            with ``"none"`` what needs it is skipped.
        engines: ``NAME`` or ``NAME@VERSION`` of each engine; a string may name several with commas between them.
        max_lora_rank: the engines' largest rank.
        values: read the tensors' values.
        cache_dir: the cache; without it that of the command line.
        offline: make no network request; without it as ``LORA_CLI_OFFLINE`` says.

    Returns:
        The result; ``refused()`` of it is what exit code 1 says, ``unchecked`` why base or values were not looked at.

    Raises:
        LoraCliError: the adapter or the base cannot be read, or there is no such engine.
    """
    from lora_cli.finding import Deployment
    from lora_cli.inputs import Inputs, terms_of
    from lora_cli.judging.judge import judge_one

    settings, named = _settings(cache_dir, offline=offline), [engines] if isinstance(engines, str) else engines
    inputs = Inputs((), "" if base is None else os.fspath(base))
    terms = terms_of(inputs, settings, engines=named, deployment=Deployment(max_lora_rank), values=values)
    return _one(os.fspath(ref), judge_one, terms)


def _one(ref: str, one: "One", terms: "Terms") -> "Result":
    from lora_cli.judging.read import each
    from lora_cli.redaction import without_secrets
    from lora_cli.refs.reference import training_run
    from lora_cli.refs.request import Request, Selection

    run = training_run(ref)
    item = Request(without_secrets(ref), run or ref, selection=Selection(latest=bool(run)))
    (result,) = each([item], one, terms)
    if result.error is not None:
        raise result.error
    return result


def _settings(cache_dir: str | Path | None, *, offline: bool) -> Settings:
    """This machine's settings, its policy (``LORA_CLI_POLICY``) among them."""
    from lora_cli.inputs import apply_policies

    return apply_policies(load_settings({"cache_dir": cache_dir, "offline": offline or None}, os.environ), None)
