"""What a named version of a named engine does with one adapter, and why."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from lora_cli.core.finding import Applied, Location

OutcomeSlug = Literal["ok", "serves-wrong", "crashes", "rejects"]
_SLUGS: tuple[OutcomeSlug, ...] = ("ok", "serves-wrong", "crashes", "rejects")


class Outcome(IntEnum):
    """What becomes of the adapter, ordered by how early it does: what is rejected is never served, right or wrong.

    The larger of two therefore hides the smaller, and ``max`` over an adapter's reasons is its outcome.
    """

    OK = 0
    SERVES_WRONG = 1
    CRASHES = 2
    REJECTS = 3

    @property
    def label(self) -> str:
        """As people read it: ``serves wrong``, ``crashes on first use``."""
        return "crashes on first use" if self is Outcome.CRASHES else self.slug.replace("-", " ")

    @property
    def phrase(self) -> str:
        """What an engine does with "it", to be put behind the engine's name."""
        return ("serves it right", "serves it wrong", "crashes on it at first use", "rejects it")[self]

    @property
    def slug(self) -> OutcomeSlug:
        """As machines read it: ``ok``, ``serves-wrong``, ``crashes``, ``rejects``."""
        return _SLUGS[self]


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing about an adapter that an engine does not serve as it was trained.

    ``feature`` names the row of the engine's profile (``rslora``), or is the code of a rule that holds for every
    engine (``LC102``); ``code`` is the rule under which it is a finding. ``limit`` is the engine's own limit in words,
    where it has one; ``mend`` the flag or the repair that mends it; ``evidence`` where the behaviour was read.
    """

    outcome: Outcome
    feature: str
    code: str
    message: str
    at: Location
    limit: str = ""
    mend: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class EngineOutcome:
    """One adapter on one engine.

    ``engine`` is its name (``vllm``), ``title`` how it writes itself (``vLLM``), ``version`` what was asked for (empty:
    the newest), ``profile`` the version whose profile judged, and ``note`` says why where that is another one.
    ``applied`` counts modules by the engine's own name rules, None where there was no base to count them on.
    ``proven`` is False where no version was read that is as old as the one that was asked for.
    """

    engine: str
    title: str
    version: str
    profile: str
    outcome: Outcome
    applied: Applied | None = None
    reasons: tuple[Reason, ...] = ()
    note: str = ""
    proven: bool = True

    @property
    def known(self) -> bool:
        """Whether the outcome is sure: without a base, modules that exist nowhere look like any others."""
        return self.outcome is not Outcome.OK or self.applied is not None

    def __str__(self) -> str:
        return f"{self.title} {self.version or self.profile}"
