"""The adapters that clients request by name: entries of a manifest, or of a pattern (``hf://acme/{name}``)."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.documents.manifest import version_on_disk
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.fetching.gate import with_policies
from lora_cli.inputs import POLICY, read_inputs
from lora_cli.plugins import MANIFEST, RESOLVE
from lora_cli.refs.reference import AdapterRef, parse
from lora_cli.refs.request import NAME, Request
from lora_cli.settings import CONFIG, Settings, load_settings

PLACE = "{name}"


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
        found: list[Request] = []
        for pattern in self.patterns if re.fullmatch(NAME, name) else ():
            with suppress(UsageError):  # not every name can be one there
                ref = _filled(pattern, name)
                # The address of a file of an adapter is that of its folder, which is above what the pattern says.
                found += [Request(name, ref)] * (name in str(ref))
        return tuple(found)


class Names:
    """The files and patterns in the variables of ``environ``, which give names their meaning.

    The manifest, its lock, the policy and the settings file may change while the engine runs.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        self._patterns = tuple(environ.get(RESOLVE, "").split())
        self._manifest, self._policy, self._config = (
            Path(file).absolute() if (file := environ.get(name)) else None for name in (MANIFEST, POLICY, CONFIG)
        )

    def fingerprint(self) -> object:
        """A value that changes when a file is replaced or edited."""
        return version_on_disk(self._manifest, self._policy, self._config)

    def read(self) -> Known:
        """Reads the files.

        Raises:
            LoraCliError: a file cannot be read or has an error; a pattern is not valid, or no policy allows its source.
        """
        inputs = read_inputs(self._manifest, (), "", "resolve", may_be_empty=True)
        settings = with_policies(load_settings({}, self.environ), inputs.manifest, self._policy)
        # Clients choose what a pattern fetches: only a policy that lists sources makes that safe.
        if self._patterns and not any(policy.allow_sources for policy in settings.policies):
            hint = f"set {POLICY} to a policy file with allow_sources"
            raise UsageError(f"{RESOLVE} needs a policy that lists the allowed sources", hint=hint)
        for pattern in self._patterns:
            place, _, path = pattern.partition("://")[2].partition("/")
            if pattern.count(PLACE) != 1 or PLACE in place or PLACE not in path:
                hint = f"for example hf://acme/{PLACE} or s3://adapters/prod/{PLACE}"
                said = f"{RESOLVE}: {pattern!r} must contain {PLACE} once, after the host or bucket"
                raise UsageError(said, hint=hint)
            try:
                _filled(pattern, "name")
            except LoraCliError as error:
                raise UsageError(f"{RESOLVE}: {error.message}", hint=error.hint) from error
        return Known(settings, {item.name: item for item in inputs.items}, self._patterns, inputs.max_lora_rank)


def _filled(pattern: str, name: str) -> AdapterRef:
    """The reference that a pattern is with this name. Raises ``UsageError``."""
    return parse(pattern.replace(PLACE, name), is_path=lambda _: False)
