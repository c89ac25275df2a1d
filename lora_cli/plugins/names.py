"""The adapters that clients request by name: entries of a manifest, or of a pattern (``hf://acme/{name}``)."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.documents.manifest import lock_path, locked_adapters, read_lock, read_manifest, requests_of
from lora_cli.errors import LoraCliError, NotFound, UsageError
from lora_cli.fetching.gate import with_policies
from lora_cli.refs.reference import parse
from lora_cli.refs.request import NAME, Request
from lora_cli.settings import CONFIG, RESOLVE, Settings, load_settings

MANIFEST, POLICY = "LORA_CLI_MANIFEST", "LORA_CLI_POLICY"
"""The variables of ``--manifest``, which turns a plugin on as ``RESOLVE`` does, and of ``--policy``."""

PLACE = "{name}"

Fingerprint = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The adapters of a manifest at one moment, the patterns for other names, and the settings that hold for both.

    ``max_lora_rank`` is the engine's limit as the manifest says it.
    """

    settings: Settings
    items: Mapping[str, Request]
    patterns: tuple[str, ...] = ()
    max_lora_rank: int | None = None

    def find(self, name: str) -> tuple[Request, ...]:
        """The adapters that the name may mean, in the order to try; empty for an unknown name."""
        if (item := self.items.get(name)) is not None:
            return (item,)
        if not re.fullmatch(NAME, name):
            return ()
        found = []
        for pattern in self.patterns:
            with suppress(UsageError):  # not every name can be one there
                ref = parse(pattern.replace(PLACE, name), is_path=_never)
                # The address of a file of an adapter is that of its folder, which is above what the pattern says.
                found += [Request(name, ref)] * (name in str(ref))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Names:
    """The files and patterns that give names their meaning.

    ``manifest`` and its lock, and ``policy``, may change while the engine runs.
    """

    environ: Mapping[str, str]
    manifest: Path | None = None
    patterns: tuple[str, ...] = ()
    policy: Path | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Names | None":
        """The names that the environment configures; None if it configures none."""
        manifest, patterns, policy = (environ.get(name, "") for name in (MANIFEST, RESOLVE, POLICY))
        if not manifest and not patterns.split():
            return None
        return cls(
            dict(environ),
            Path(manifest).absolute() if manifest else None,
            tuple(patterns.split()),
            Path(policy).absolute() if policy else None,
        )

    def fingerprint(self) -> Fingerprint:
        """A value that changes when a file is replaced or edited."""
        lock = (lock_path(self.manifest),) if self.manifest is not None else ()
        config = self.environ.get(CONFIG)
        files = (self.manifest, *lock, self.policy, Path(config) if config else None)
        return tuple(_state(path) for path in files if path is not None)

    def read(self) -> Known:
        """Reads the files.

        Raises:
            LoraCliError: a file cannot be read or has an error; a pattern is not valid, or no policy allows its source.
        """
        settings = load_settings({}, self.environ)
        items, rank = {}, None
        adapter_set = read_manifest(self.manifest) if self.manifest is not None else None
        settings = with_policies(settings, adapter_set, self.policy)
        if adapter_set is not None and self.manifest is not None:
            try:
                lock = read_lock(lock_path(self.manifest), str(self.manifest))
                locked = locked_adapters(adapter_set, lock)
            except NotFound:
                locked = {}
            items = {item.name: item for item in requests_of(adapter_set.adapters, locked)}
            rank = adapter_set.engine.max_lora_rank if adapter_set.engine is not None else None
        if self.patterns:
            _check_patterns(self.patterns, settings)
        return Known(settings, items, self.patterns, rank)


def _check_patterns(patterns: tuple[str, ...], settings: Settings) -> None:
    """Clients choose what a pattern fetches: only a policy that lists sources makes that safe."""
    if not any(policy.allow_sources for policy in settings.policies):
        raise UsageError(
            f"{RESOLVE} needs a policy that lists the allowed sources",
            hint=f"set {POLICY} to a policy file with allow_sources",
        )
    for pattern in patterns:
        scheme, _, rest = pattern.partition("://")
        host, _, path = rest.partition("/")
        if pattern.count(PLACE) != 1 or PLACE in scheme or PLACE in host or PLACE not in path:
            raise UsageError(
                f"{RESOLVE}: {pattern!r} must contain {PLACE} once, after the host or bucket",
                hint=f"for example hf://acme/{PLACE} or s3://adapters/prod/{PLACE}",
            )
        try:
            parse(pattern.replace(PLACE, "name"), is_path=_never)
        except LoraCliError as error:
            raise UsageError(f"{RESOLVE}: {error.message}", hint=error.hint) from error


def _never(_text: str) -> bool:
    return False


def _state(path: Path) -> tuple[int, int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None
