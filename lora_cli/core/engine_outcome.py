"""How an engine is started, what a given version does with an adapter, and why."""

from dataclasses import dataclass, field
from enum import IntEnum

from lora_cli.core.finding import Applied, Location
from lora_cli.core.json_schema import EXCLUDED, INLINE, RuleCode

ENGINE_NAMES = ("vllm", "sglang", "lorax", "tgi", "trtllm", "peft")
"""The engines that have profiles (``lora_cli.engines``)."""


class Outcome(IntEnum):
    """The engine's result for an adapter. Of several the largest counts: what is rejected is never served."""

    OK = 0
    SERVES_WRONG = 1
    CRASHES = 2
    REJECTS = 3

    @property
    def label(self) -> str:
        """As people read it: ``serves wrong``, ``crashes on first use``."""
        return "crashes on first use" if self is Outcome.CRASHES else str(self).replace("-", " ")

    @property
    def phrase(self) -> str:
        """What an engine does with "it", to be put behind the engine's name."""
        return ("serves it correctly", "serves it incorrectly", "crashes on it at first use", "rejects it")[self]

    def __str__(self) -> str:
        """As machines read it: ``ok``, ``serves-wrong``, ``crashes``, ``rejects``."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing about the adapter that the engine does not serve as it was trained."""

    outcome: Outcome
    feature: str
    """The row of the engine's profile, or the code of a rule that holds without an engine."""
    code: RuleCode
    """The rule under which it is a finding."""
    message: str
    at: Location = field(metadata=INLINE)
    limit: str = ""
    """The engine's own limit, in words; may be empty."""
    mend: str = ""
    """The flag or the repair that fixes it; may be empty."""
    evidence: str = ""
    """The engine's source file in which this was read; may be empty."""
    causes: tuple[str, ...] = field(default=(), metadata=EXCLUDED)
    """Rules that report the same without an engine."""


@dataclass(frozen=True, slots=True)
class EngineOutcome:
    """What one engine does with the adapter."""

    engine: str
    """The engine's name, as --engine takes it."""
    title: str = field(metadata=EXCLUDED)
    """The name as the engine writes it, vLLM."""
    version: str | None
    """The version that was asked for, or null for the newest."""
    profile: str
    """The version whose profile was used."""
    proven: bool
    """Whether the source of a version as old as that was read."""
    note: str
    """Why the profile is that of another version; may be empty."""
    outcome: Outcome
    applied: Applied | None
    """How many modules apply by the engine's own naming rules, or null."""
    reasons: tuple[Reason, ...]

    @property
    def known(self) -> bool:
        """Whether the outcome is sure: without a base, modules that exist nowhere look like any others."""
        return self.outcome is not Outcome.OK or self.applied is not None

    @property
    def label(self) -> str:
        """The outcome as people read it; what is not proven is not called ok."""
        return self.outcome.label if self.outcome or self.proven else "unknown"

    def __str__(self) -> str:
        return f"{self.title} {self.version or self.profile}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The flags of the engine that will serve; None is the engine's default.

    ``tp`` is the tensor-parallel size. ``lora_target_modules`` are the only modules that the engine puts LoRA on.
    ``served_model_name`` is what requests call the base, and ``max_loras`` how many adapters one batch may hold;
    ``pinned`` are those that are never to leave it.
    """

    tp: int = 1
    max_lora_rank: int | None = None
    lora_target_modules: tuple[str, ...] | None = None
    served_model_name: str | None = None
    max_loras: int | None = None
    pinned: int = 0
