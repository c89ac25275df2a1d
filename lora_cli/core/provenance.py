"""Who signed an adapter: what a policy required, and was verified."""

from dataclasses import dataclass, replace

from lora_cli.core.text import safe


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who signed an adapter, as far as policies require it. Everything here was verified."""

    signers: tuple[str, ...] = ()
    """The key, certificate or identity of each required signature."""
    refusal: str = ""
    """Why a policy refuses the adapter; empty if none does."""

    def with_others(self, other: "Provenance") -> "Provenance":
        """The signers of both, each once."""
        return replace(self, signers=tuple(dict.fromkeys((*self.signers, *other.signers))))

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What is known, each with a label."""
        return [("signed", safe(", ".join(self.signers))), ("refused", self.refusal)]

    def __str__(self) -> str:
        return "; ".join(f"signed by {safe(one)}" for one in self.signers)
