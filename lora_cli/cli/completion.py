"""What a shell is offered after a TAB, beyond commands and options: adapters of the cache, engines, rules.

Typer asks for it with the word that is begun. Files are the shell's own to offer: it does so where we know nothing.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from lora_cli.errors import LoraCliError
from lora_cli.settings import load_settings

if TYPE_CHECKING:
    from lora_cli.store import Store

MOST_RECORDS = 2000
"""Of a larger cache not all references are read: a TAB is answered at once, or not used."""

Offer = Callable[[Mapping[str, Any], str], Sequence[str | tuple[str, str]]]
"""The global options that were given, and the word that is begun → what it may become (with a word of help)."""


def references(given: Mapping[str, Any], begun: str) -> list[str]:
    """Adapters that are in the cache, as one writes them; none where a path is begun."""
    if begun.startswith((".", "/", "~")):
        return []
    return _begun(_cached(given, partial(_references, begun)), begun)


def cached(given: Mapping[str, Any], begun: str) -> list[str]:
    """What ``cache show`` takes: references, names of views, and digests once one is begun."""
    words = [*_cached(given, partial(_references, begun)), *_cached(given, lambda store: _names(store.adapters))]
    if begun:
        words += _cached(given, lambda store: _names(store.snapshots))
    return _begun(words, begun)


def engines(_given: Mapping[str, Any], begun: str) -> list[str]:
    """Names of engines; behind ``@`` the versions that have a profile, newest first."""
    from lora_cli.engines import ENGINES, profiles_of

    name, at, _ = begun.partition("@")
    if not at:
        return [one for one in ENGINES if one.startswith(begun)]
    words = [f"{name}@{profile.version}" for profile in profiles_of(ENGINES[name])] if name in ENGINES else []
    return [word for word in words if word.startswith(begun)]


def rules(_given: Mapping[str, Any], begun: str) -> list[tuple[str, str]]:
    """Codes of rules, or their names where letters of one are begun."""
    from lora_cli.rules import RULES

    codes = [(rule.code, rule.name) for rule in RULES if rule.code.startswith(begun.upper())]
    return codes or [(rule.name, rule.code) for rule in RULES if rule.name.startswith(begun)]


def _of(*words: str) -> Offer:
    return lambda _given, begun: [word for word in words if word.startswith(begun)]


OFFERS: Mapping[str, Offer] = {
    "refs": references,
    "ref": references,
    "base": references,
    "diff": references,
    "names": cached,
    "cache.name": cached,
    "engine": engines,
    "engine_args": engines,
    "engines.name": engines,
    "warm.engine": _of("vllm", "sglang", "lora-cli"),
    "code": rules,
    "select": rules,
    "ignore": rules,
    "fail_on": _of("error", "warning"),
    "formats": _of("human", "json", "sarif", "junit", "github", "markdown"),
    "checkpoint": _of("latest"),
}
"""What is offered for a parameter, by its name, or by its command's module and its name."""


def offer_of(module: str, parameter: str) -> Offer | None:
    """What is offered for that parameter of a function of ``module``, if anything is."""
    return OFFERS.get(f"{module.rpartition('.')[2]}.{parameter}") or OFFERS.get(parameter)


def _begun(words: Sequence[str], begun: str) -> list[str]:
    """The words that ``begun`` may become; a revision beside the name without one only once its ``@`` is there."""
    known = set(words)
    return [
        word
        for word in words
        if word.startswith(begun) and ("@" in begun or word.partition("@")[0] not in known - {word})
    ]


def _cached(given: Mapping[str, Any], listed: "Callable[[Store], Iterator[str]]") -> list[str]:
    """What is listed of the cache that is meant; nothing where that cannot be read: a TAB is no place for errors."""
    from lora_cli.store import Store

    with suppress(LoraCliError, OSError):
        store = Store(load_settings(given, os.environ).cache_dir)
        return sorted(set(islice(listed(store), MOST_RECORDS)))
    return []


def _references(begun: str, store: "Store") -> Iterator[str]:
    """What is cached, as it is written for short, unless ``begun`` is the long way."""
    from lora_cli.store.records import all_records

    for record in all_records(store):
        ref = record.ref if begun.startswith("hf:") else record.ref.removeprefix("hf://")
        yield ref if "%" in ref else ref.removeprefix("file://")


def _names(folder: "os.PathLike[str]") -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if not entry.name.startswith("."))
