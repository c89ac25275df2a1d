"""What rules look at: one adapter, and whatever else is known about it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.companions import Companions
from lora_cli.core.finding import Location
from lora_cli.core.keys import Key
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.reference import AdapterRef
from lora_cli.core.safetensors import TensorStats
from lora_cli.core.snapshot import RemoteFile
from lora_cli.core.text import counted, cut, names
from lora_cli.errors import FormatError
from lora_cli.rules.application import Application

if TYPE_CHECKING:
    from lora_cli.core.engine_outcome import Deployment, EngineOutcome

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
NO_BASE = "no base model was given"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read of one adapter beyond its config and header.

    ``stats`` maps tensor names to what the scan of their values told; ``stats_reason`` says why there is none, and is
    empty where they were scanned. ``companions`` is what the files beside the weights say, None where no rule asks.
    ``ref`` is what was asked for, and ``commit`` what that meant where it is a repository.
    """

    stats: Mapping[str, TensorStats] = field(default_factory=dict)
    stats_reason: str = "the values were not read"
    companions: Companions | None = None
    ref: AdapterRef | None = None
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter before the rules.

    ``base`` is None where none was given. ``application`` sorts the adapter's modules by what
    PEFT would do with them. ``max_lora_rank`` is the limit of whoever will serve it, None for no limit. ``served`` is
    what each engine that was named does with it, in which ``deployment`` counted.
    """

    adapter: Adapter
    application: Application
    evidence: Evidence = Evidence()
    base: BaseModel | None = None
    max_lora_rank: int | None = None
    served: "tuple[EngineOutcome, ...]" = ()
    deployment: "Deployment | None" = None

    def lacks(self, need: str) -> str:
        """Why ``need`` (config, weights, base, values or companions) is not there, or nothing when it is."""
        foreign = f"it is {self.adapter.foreign.format.title}" if self.adapter.foreign is not None else ""
        weights = "" if self.has_weights else foreign or self.adapter.unread or "the weights could not be read"
        config = "" if self.adapter.config is not None else f"{CONFIG_FILE} could not be read"
        config = config if self.is_lora else foreign or config
        reasons = {
            "config": config,
            "weights": weights,
            "base": "" if self.base is not None else NO_BASE,
            "values": (weights or self.evidence.stats_reason) if self.evidence.stats_reason else "",
            "companions": "" if self.evidence.companions is not None else "the files beside the weights were not read",
        }
        return reasons[need]

    @property
    def config(self) -> LoraConfig:
        """The adapter's config, for a rule that needs it."""
        assert self.adapter.config is not None
        return self.adapter.config

    @property
    def is_lora(self) -> bool:
        """Whether the config is that of a LoRA adapter."""
        return self.adapter.config is not None and self.adapter.config.peft_type == "LORA"

    @property
    def has_weights(self) -> bool:
        """Whether the names and shapes of the adapter's tensors are known, and those of a LoRA."""
        adapter = self.adapter
        return adapter.foreign is None and adapter.weights_error is None and bool(adapter.weight_files)

    @property
    def weights_file(self) -> str:
        """The file to point at when something is wrong with a tensor."""
        return self.adapter.weight_files[0] if self.adapter.weight_files else WEIGHTS_FILE

    def narrowed(self) -> Mapping[str, tuple[int, int]]:
        """By what A's and B's columns are divided, where it is not LoRA's own shape: see ``core.factors``."""
        config = self.adapter.config
        if config is None or (config.use_bdlora is None and not config.use_qalora):
            return {}
        from lora_cli.core.factors import divisors

        gptq = self.base is not None and "quantised: gptq" in self.base.source
        try:
            divided = divisors(config, gptq=gptq)
            return {module: divided(module) for module in self.application.adapter.pairs}
        except FormatError:  # PEFT refuses the config, which LC209 says
            return {}

    def beside_factors(self) -> Iterator[Key]:
        """The tensors that are no factor of any module: saved modules, trained tokens, biases."""
        factors = {factor.name for pair in self.adapter.pairs.values() for factor in pair.factors}
        return (key for name, key in self.adapter.keys.items() if name not in factors)

    def added_beyond_vocabulary(self) -> tuple[str, Location] | None:
        """What is to be said where ``added_tokens.json`` has ids beyond the base's vocabulary."""
        size = self.base.vocab_size if self.base is not None else None
        companions = self.evidence.companions
        added = (companions.added_tokens or {}) if companions is not None else {}
        beyond = sorted(token for token, index in added.items() if size is not None and index >= size)
        if not beyond:
            return None
        said = f"{counted(len(beyond), 'added token has', 'added tokens have')} an id beyond the base's {size}"
        return f"{said}: {names(beyond)}", Location("added_tokens.json", cut(beyond[0]))

    def file(self, path: str) -> RemoteFile | None:
        """The adapter's file at ``path``, or None."""
        return next((file for file in self.adapter.files if file.path == path), None)
