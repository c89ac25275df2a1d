"""An adapter on its way to be written anew: what its modules' updates are, and what config says so.

The one thing that holds from the first step to the last: a module's ``scaling · B @ A`` is what it was trained to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.json_schema import Count
from lora_cli.core.keys import PEFT_PREFIX
from lora_cli.core.lora_config import LoraConfig
from lora_cli.engines.profile import Profile
from lora_cli.repair.made import Made


@dataclass(frozen=True, slots=True)
class Factors:
    """One module's update ``scaling · b @ a``, as ``LoraPair`` has its shapes.

    ``plain`` is False where the factors are no two matrices of one rank: of fused experts, whose ranks lie interleaved,
    or in blocks. They are written as they are.
    """

    a: Made
    b: Made
    scaling: float
    embedding: bool = False
    plain: bool = True

    @property
    def r(self) -> int:
        """Its rank."""
        return self.a.shape[0]

    def named(self, module: str) -> dict[str, Made]:
        """A and B by the names that PEFT gives those of ``module`` on disk: A first."""
        a, b = ("lora_embedding_A", "lora_embedding_B") if self.embedding else ("lora_A.weight", "lora_B.weight")
        return {f"{PEFT_PREFIX}{module}.{a}": self.a, f"{PEFT_PREFIX}{module}.{b}": self.b}


Step = Literal["files", "fields", "names", "copies", "places", "zeros", "scales", "targets", "base", "dtype"]
"""The steps of a repair, in their order; the JSON Schema of ``repair`` lists them."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was repaired."""

    step: Step
    what: str
    why: str
    modules: Count = 0
    """The number of modules that changed; 0 for the config or the files."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that cannot be repaired without changing what the adapter does."""

    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What will be written, so far.

    ``config`` is the JSON object, ``factors`` are the modules' updates by their path, ``before`` these as they were
    read, ``others`` all other tensors by the name under which they will be written. With ``refusals`` nothing is.
    """

    config: Mapping[str, Any]
    factors: Mapping[str, Factors]
    others: Mapping[str, Made] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    before: Mapping[str, Factors] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Made]:
        """Every tensor by the name under which it will be written."""
        named = (one.named(module) for module, one in self.factors.items())
        return {**{name: made for pair in named for name, made in pair.items()}, **self.others}

    def changed(self, step: Step, what: str, why: str, modules: int = 0, **fields: Any) -> "Draft":
        """The draft with other ``fields``, and a note of what changed."""
        return replace(self, changes=(*self.changes, Change(step, what, why, modules)), **fields)

    def refused(self, what: str, hint: str) -> "Draft":
        """The draft with one more reason not to write it."""
        return replace(self, refusals=(*self.refusals, Refusal(what, hint)))


@dataclass(frozen=True, slots=True)
class Aim:
    """What a repair is for: the engine, how it is deployed, and the base that it serves (None: nobody said).

    ``adapter`` is as it was read, ``parsed`` its config. ``dtype`` and ``base_name`` are what the user asked for, None
    to leave them. ``copies`` maps tensors that stand for a weight of the base to whether they equal it; what is not
    in it was not compared.
    """

    adapter: Adapter
    parsed: LoraConfig
    profile: Profile
    base: BaseModel | None = None
    tp: int = 1
    dtype: str | None = None
    base_name: str | None = None
    copies: Mapping[str, bool] = field(default_factory=dict)

    def has(self, *features: str) -> bool:
        """Whether the engine's profile has a row for one of these features."""
        named = {row.feature for row in self.profile.rows}
        return any(feature in named for feature in features)

    @property
    def engine(self) -> str:
        """How the engine writes itself."""
        return self.profile.title
