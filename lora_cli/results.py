"""The results of the runtime and the benchmark that ``reports`` shows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import NoneType

from lora_cli.errors import LoraCliError


@dataclass(frozen=True, slots=True)
class ModuleProof:
    """One module's forward, checked: base + LoRA path against the merged weights ``W + s*B*A``.

    ``error`` is max |composed - merged| and ``moved`` the largest output of the LoRA path alone (zero without an
    adapter), both relative to max |merged|;
    ``tolerance`` is what ``error`` may be for the dtype. ``reason`` is empty when the module holds.
    """

    module: str
    error: float
    moved: float
    tolerance: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """Every targeted module's forward. ``weights`` is ``"base"`` (the checkpoint's own) or ``"synthetic"`` (seeded).

    It ``holds`` when there is at least one module and none failed.
    """

    modules: tuple[ModuleProof, ...]
    weights: str
    dtype: str
    holds: bool

    @property
    def worst(self) -> ModuleProof | None:
        """The first failed module, else the one with the largest error against its tolerance."""
        failed = [module for module in self.modules if module.reason]
        return failed[0] if failed else max(self.modules, key=lambda m: m.error / m.tolerance, default=None)


@dataclass(frozen=True, slots=True)
class Moved:
    """How far an adapter moved the whole model's next token, over so many ``positions`` in seeded random tokens.

    ``max_abs_logit_delta`` is the largest change of any logit; ``kl`` the mean over the positions of the divergence
    KL(base || adapted) in nats; ``top1_changed`` counts positions where another token is the likeliest.
    """

    max_abs_logit_delta: float
    kl: float
    top1_changed: int
    positions: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How far one adapter came: fetched, validated, loaded and proved.

    ``stage_ms`` holds milliseconds by stage, in order: fetch, validate, read, slot, proof. ``tier`` is where
    the warm process found it: ``gpu``, ``cpu`` or ``disk``. ``moved`` is what it does to the whole model, None if that
    was not run. ``error`` is empty when every stage passed; ``stage`` names the one that failed, ``exit_code`` is what
    it ends with. ``signers`` are those that a policy requires.
    """

    name: str
    digest: str = ""
    rank: int | None = field(default_factory=NoneType)
    applied: str = ""
    bytes: int = 0
    tier: str = ""
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    proof: Proof | None = field(default_factory=NoneType)
    moved: Moved | None = field(default_factory=NoneType)
    stage: str = ""
    error: str = ""
    hint: str = ""
    exit_code: int = 0
    signers: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The code of the rule that refused it (``LC301``), else the stage at which it failed."""
        found = re.match(r"LC\d{3}(?= )", self.error)
        return found[0] if found else self.stage or "load"

    def failed(self, stage: str, error: LoraCliError) -> "LoadReport":
        """The same, ended at ``stage`` by ``error``."""
        return replace(self, stage=stage, error=error.message, hint=error.hint, exit_code=error.exit_code)

    def after(self, judged: "LoadReport") -> "LoadReport":
        """The report of a load, with that of the fetching and judging before it."""
        stage_ms = {**judged.stage_ms, **self.stage_ms}
        return replace(self, applied=judged.applied, stage_ms=stage_ms, signers=judged.signers)
