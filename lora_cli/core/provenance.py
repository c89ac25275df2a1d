"""Who signed an adapter and who validated it: what a policy required, and was verified."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lora_cli.core.json_schema import EXCLUDED
from lora_cli.core.text import safe


@dataclass(frozen=True, slots=True)
class JudgedEngine:
    """What an engine does with the adapter, as a verdict has it."""

    engine: str
    version: str
    outcome: str


@dataclass(frozen=True, slots=True)
class VerifiedVerdict:
    """A verdict of ``validate --attest`` on exactly these files that a policy accepts."""

    by: str
    """The file of the key that made it."""
    time: str
    """When the adapter was validated, in ISO 8601 and UTC."""
    result: str
    """PASSED or WARNED."""
    version: str
    """The version of lora-cli that validated it."""
    base: str
    """The base model, as it was named there; may be empty."""
    engines: tuple[JudgedEngine, ...]
    """The engines that the policy requires a verdict about, or all."""
    base_sha256: str = field(default="", metadata=EXCLUDED)
    """The sha256 of the base's config.json."""
    deployment: Mapping[str, Any] = field(default_factory=dict, metadata=EXCLUDED)
    """How the engines are started: the fields of ``Deployment``."""
    replaces_validation: bool = field(default=True, metadata=EXCLUDED)
    """Whether the adapter need not be validated again."""

    def __str__(self) -> str:
        engines = ", ".join(f"{one.engine} {one.version}: {one.outcome}" for one in self.engines)
        return safe(f"{self.result} by the key {self.by} at {self.time}" + (f" ({engines})" if engines else ""))


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who signed an adapter, and who validated it, as far as policies require it. Everything here was verified."""

    signers: tuple[str, ...] = ()
    """The key, certificate or identity of each required signature."""
    verdicts: tuple[VerifiedVerdict, ...] = ()
    """The required verdicts, the newest first."""
    refusal: str = ""
    """Why a policy refuses the adapter; empty if none does."""

    def with_others(self, other: "Provenance") -> "Provenance":
        """The signers and verdicts of both, each once."""
        verdicts = [*self.verdicts, *(one for one in other.verdicts if one not in self.verdicts)]
        newest = sorted(verdicts, key=lambda one: one.time, reverse=True)
        return replace(self, signers=tuple(dict.fromkeys((*self.signers, *other.signers))), verdicts=tuple(newest))

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What is known, each with a label."""
        verdicts = [("validated", str(one)) for one in self.verdicts]
        return [("signed", safe(", ".join(self.signers))), *verdicts, ("refused", self.refusal)]

    def __str__(self) -> str:
        return "; ".join([*(f"signed by {safe(one)}" for one in self.signers), *map(str, self.verdicts)])
