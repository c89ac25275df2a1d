"""What checks look at: ``Case``, an adapter with its base and evidence, and ``On``, its modules in an engine."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lora_cli.adapter.adapter import PAIR_PARTS, Adapter, Format, Key
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.reading import Companions
from lora_cli.base.base_model import BaseModel
from lora_cli.engines import Profile
from lora_cli.engines.name_resolution import NameResolution, resolve_names
from lora_cli.finding import NO_BASE, NO_VALUES, Applied, Deployment, Location, Outcome
from lora_cli.peft.match import Application
from lora_cli.refs.adapter_files import CONFIG, WEIGHTS
from lora_cli.refs.reference import AdapterRef
from lora_cli.text import cut

if TYPE_CHECKING:
    from lora_cli.adapter.values import TensorStats


@dataclass(frozen=True, slots=True)
class Evidence:
    """Data of one adapter beyond its config and header.

    ``stats`` maps tensor names to statistics of their values; ``stats_reason`` says why there are none. ``companions``
    are the files next to the weights, None if no check needs them. ``ref`` is the requested reference, ``commit`` its
    revision on the Hub. ``base_reason`` says why there is no base.
    """

    stats: Mapping[str, "TensorStats"] = field(default_factory=dict)
    stats_reason: str = NO_VALUES
    companions: Companions | None = None
    ref: AdapterRef | None = None
    commit: str = ""
    base_reason: str = NO_BASE


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter, with everything that checks look at.

    ``application`` sorts the adapter's modules by what PEFT would do with them. ``deployment`` is how the engines are
    started. ``as_lora``: an engine is asked for that does not read ``peft_type``.
    """

    adapter: Adapter
    application: Application
    evidence: Evidence = Evidence()
    base: BaseModel | None = None
    deployment: Deployment = field(default_factory=Deployment)
    as_lora: bool = False

    def why_missing(self, need: str) -> str:
        """Why ``need`` (config, weights, base, values or companions) is missing; empty if it is not."""
        adapter, evidence = self.adapter, self.evidence
        foreign = f"it is {self.foreign.title}" if self.foreign is not None else ""
        is_lora = self.as_lora or (adapter.config is not None and adapter.config.peft_type == "LORA")
        unread = "" if adapter.config is not None else f"{CONFIG} could not be read"
        return {
            "config": unread if is_lora else foreign or unread,
            "weights": "" if self.has_weights else foreign or "the weights could not be read",
            "base": "" if self.base is not None else evidence.base_reason,
            "values": evidence.stats_reason,
            "companions": "" if evidence.companions is not None else "the files next to the weights were not read",
        }[need]

    @property
    def config(self) -> LoraConfig:
        """The adapter's config, for a check that needs it."""
        assert self.adapter.config is not None
        return self.adapter.config

    @property
    def known_base(self) -> BaseModel:
        """The base, for a check that needs it."""
        assert self.base is not None
        return self.base

    @property
    def companions(self) -> Companions:
        """The files next to the weights, for a check that needs them."""
        assert self.evidence.companions is not None
        return self.evidence.companions

    @property
    def foreign(self) -> Format | None:
        """What it is where it is no LoRA adapter in PEFT's format."""
        return None if self.as_lora else self.adapter.foreign

    @property
    def has_weights(self) -> bool:
        """Whether the names and shapes of the tensors are known, and are in PEFT's format."""
        return self.foreign is None and self.adapter.weights_error is None and bool(self.adapter.weight_files)

    def in_weights(self, name: str = "") -> Location:
        """The location of a tensor or a module in the weights."""
        return Location(self.weights_file, cut(name))

    def in_config(self, field: str = "") -> Location:
        """The location of a field in the config."""
        return Location(self.adapter.config.file if self.adapter.config is not None else CONFIG, field)

    @property
    def weights_file(self) -> str:
        """The file that is named in findings about tensors."""
        return self.adapter.weight_files[0] if self.adapter.weight_files else WEIGHTS

    @property
    def unserved_variant(self) -> str:
        """The field of a variant that no engine serves, whose tensors have other shapes; empty for all others."""
        fields = ("use_bdlora", "use_qalora", "layer_replication")
        return next((field for field in fields if getattr(self.adapter.config, field, None)), "")

    @property
    def other_ranks(self) -> list[str]:
        """The modules whose tensors have another rank than the config gives them."""
        pairs, ranks = self.application.adapter.pairs, self.application.ranks
        return [module for module, wanted in ranks.items() if pairs[module].rank not in {None, wanted}]

    @property
    def other_keys(self) -> Iterator[Key]:
        """The names of the tensors that are not factors: saved modules, trained tokens, biases."""
        return (key for key in self.adapter.keys.values() if key.part not in PAIR_PARTS)


@dataclass(frozen=True, slots=True)
class On:
    """One engine for a case: ``placed`` is where it puts the modules (nowhere without a base or weights).

    ``asked`` is False for PEFT where no engine was asked for.
    """

    profile: Profile
    placed: NameResolution = field(default_factory=NameResolution)
    applied: Applied | None = None
    asked: bool = True

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.profile.engine.name

    @property
    def key(self) -> str:
        """The engine as it was asked for."""
        return f"{self.name}@{self.profile.requested}" if self.profile.requested else self.name

    def without(self, modules: Iterable[str], *, beyond: bool = False) -> Outcome:
        """What the engine does with ``modules``, which PEFT does not find; ``beyond``: some are in layers too many."""
        missed, engine = set(modules), self.profile.engine
        worst = engine.beyond if beyond else Outcome.OK
        if not missed.isdisjoint(self.placed.unexpected):
            worst = max(worst, engine.unexpected)
        return worst if missed.isdisjoint(self.placed.nowhere) else max(worst, Outcome.WRONG_OUTPUT)


def on_engine(case: Case, profile: Profile) -> On:
    """Where the engine of a profile puts the modules of the adapter."""
    if profile.engine.reads_peft_type:
        case = replace(case, as_lora=False)
    if case.base is None or not case.has_weights:
        return On(profile)
    if profile.engine.name == "peft":
        return On(profile, applied=case.application.applied)
    placed = resolve_names(case.adapter, case.base, profile)
    named, misfits = placed.applied_count, case.application.misshapen.keys() & {*placed.applied}
    return On(profile, placed, replace(named, matched=named.matched - len(misfits)))
