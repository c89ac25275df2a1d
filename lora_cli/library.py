"""What ``import lora_cli`` gives: the way from a reference to a verdict, for programs.

Settings are those of the command line: ``LORA_CLI_…``, the settings file, ``HF_TOKEN`` and the clouds' own chains. What
ends a command with a message is a ``lora_cli.errors.LoraCliError`` here; its ``exit_code`` is what scripts branch on.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.settings import Settings, load_settings

if TYPE_CHECKING:
    from lora_cli.core.adapter import Adapter
    from lora_cli.core.base_model import BaseModel
    from lora_cli.core.finding import Verdict
    from lora_cli.core.snapshot import Snapshot
    from lora_cli.validation import Checked, Terms


def fetch(
    ref: str,
    *,
    revision: str | None = None,
    subfolder: str = "",
    allow_pickle: bool = False,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> "Snapshot":
    """The adapter that ``ref`` means, complete and verified in the cache: its ``directory`` is what an engine is given.

    ``ref`` is written as on the command line, and so is what each argument means.

    Raises:
        LoraCliError: the origin does not give it, a limit or policy forbids it, or this machine does not let us.
    """
    from lora_cli.core.reference import override, parse
    from lora_cli.fetching import Selection
    from lora_cli.fetching.many import Wanted, bring_all
    from lora_cli.store import Store
    from lora_cli.validation import is_path

    settings = _settings(cache_dir, offline=offline)
    asked = override(parse(ref, is_path=is_path), revision=revision, subfolder=subfolder)
    selection = Selection(allow_pickle=allow_pickle)
    (outcome,) = bring_all([Wanted(asked.name, asked)], Store(settings.cache_dir), settings, selection=selection)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.fetched is not None
    return outcome.fetched.snapshot


def read_adapter(ref: str, *, cache_dir: str | Path | None = None, offline: bool = False) -> "Adapter":
    """What an adapter is, from its config and header alone: local, or of a remote one some kilobytes.

    What is wrong inside it raises nothing: it stands in ``config_error`` and ``weights_error``.

    Raises:
        LoraCliError: there is no such adapter, or its origin does not give it.
    """
    from lora_cli.validation import Terms

    adapter = _judged(ref, Terms(values=False, rules=()), _settings(cache_dir, offline=offline)).adapter
    assert adapter is not None
    return adapter


def check(
    ref: str,
    base: str | None = None,
    *,
    engines: Sequence[str] = (),
    max_lora_rank: int | None = None,
    values: bool = True,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> "Verdict":
    """What ``lora-cli validate`` finds in one adapter; ``refused()`` of it is exit 1.

    ``base`` is a directory, a ``config.json`` or a reference; without one what needs it is skipped. ``engines`` are
    NAME or NAME@VERSION.

    Raises:
        LoraCliError: the adapter or the base cannot be read, or an engine is none.
    """
    from lora_cli.core.deployment import Deployment
    from lora_cli.engines import choose_engine
    from lora_cli.validation import Terms, open_base

    settings = _settings(cache_dir, offline=offline)
    profiles = tuple(map(choose_engine, engines))
    terms = Terms(
        open_base(base, settings, fallback=_from_transformers) if base is not None else None,
        values=values,
        max_lora_rank=max_lora_rank,
        engines=profiles,
        deployment=Deployment(max_lora_rank=max_lora_rank) if profiles else None,
    )
    verdict = _judged(ref, terms, settings).verdict
    assert verdict is not None
    return verdict


def _judged(ref: str, terms: "Terms", settings: Settings) -> "Checked":
    from lora_cli.validation import check_in_place

    checked = check_in_place(ref, terms, settings)
    if checked.error is not None:
        raise checked.error
    return checked


def _settings(cache_dir: str | Path | None, *, offline: bool) -> Settings:
    """This machine's settings, its policy (``LORA_CLI_POLICY``) among them."""
    settings = load_settings({"cache_dir": cache_dir, "offline": offline or None}, os.environ)
    if policy := os.environ.get("LORA_CLI_POLICY"):
        from dataclasses import replace

        from lora_cli.reading.manifest import read_policy

        settings = replace(settings, policies=(read_policy(Path(policy)),))
    return settings


def _from_transformers(config: Mapping[str, Any]) -> "BaseModel":
    from lora_cli.runtime.module_tree import base_from_transformers

    return base_from_transformers(config)
