"""What a feature is: a detector over what is served, and what it finds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from lora_cli.core.adapter import Adapter
from lora_cli.core.engine_outcome import Deployment, Outcome
from lora_cli.core.finding import Location
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.tensor_keys import Key
from lora_cli.engines.name_resolution import Landing
from lora_cli.engines.profile import Profile
from lora_cli.rules.rule import Case


@dataclass(frozen=True, slots=True)
class Served:
    """One adapter on one engine.

    ``landing`` is where its modules go there, empty without a base or without weights. ``beside`` are the names of its
    tensors that are no factors.
    """

    case: Case
    profile: Profile
    deployment: Deployment
    landing: Landing
    beside: tuple[Key, ...]

    @property
    def adapter(self) -> Adapter:
        """The adapter as it is written: with experts one by one, where PEFT would stack them."""
        return self.case.adapter

    @property
    def config(self) -> LoraConfig | None:
        """Its config, None if that cannot be read."""
        return self.case.adapter.config


@dataclass(frozen=True, slots=True)
class Found:
    """That an adapter has a feature: what is so, where, and the ``fields`` that a row's texts may name.

    A field ``mend`` stands in for the fix of a row that names no field: here, that would not help.
    """

    message: str
    at: Location
    fields: Mapping[str, str] = field(default_factory=dict)


Detect = Callable[[Served], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that an adapter may have, in words, and what finds it.

    ``rule`` is the code of the rule that finds the same without an engine, ``along`` are features that an adapter with
    this one has too; both empty if there are none.
    """

    title: str
    detect: Detect
    rule: str = ""
    along: tuple[str, ...] = ()

    def outcome(self, name: str, profile: Profile) -> Outcome | None:
        """What the engine does with an adapter that has this feature, called ``name``, and no other; None: unknown."""
        if name in profile.engine.unread:
            return None
        own = [row.outcome for row in profile.rows if row.feature == name]
        rows = [row.outcome for row in profile.rows if row.feature in self.along]
        generic = profile.engine.generic.get(self.rule, Outcome.OK)
        return max([*rows, *own] if own else [*rows, generic])
