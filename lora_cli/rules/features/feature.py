"""A feature: a detector over one adapter on one engine, and what it finds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from lora_cli.adapter.names import Key
from lora_cli.engines.name_resolution import NameResolution
from lora_cli.engines.profile import Profile
from lora_cli.finding import Location, Outcome
from lora_cli.rules.rule import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCase(Case):
    """One adapter, as it is stored, on the engine of a profile.

    ``resolution`` is where the engine puts its modules, empty without a base or without weights. ``other_keys`` are the
    names of its tensors that are not factors.
    """

    profile: Profile
    resolution: NameResolution
    other_keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A feature of an adapter: a message, a location, and the ``fields`` for placeholders in a row's texts.

    A field ``mend`` replaces the fix of a row without placeholders, where that fix would not help. ``causes`` are the
    rules that report the same without an engine.
    """

    message: str
    at: Location
    fields: Mapping[str, str] = field(default_factory=dict)
    causes: tuple[str, ...] = ()


Detect = Callable[[EngineCase], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature that an adapter may have: a title, and the function that detects it.

    ``rule`` is the code of the rule that finds the same without an engine. ``along`` are features that an adapter with
    this one always has too. Both are empty if there are none.
    """

    title: str
    detect: Detect
    rule: str = ""
    along: tuple[str, ...] = ()

    def outcome(self, name: str, profile: Profile) -> Outcome | None:
        """The engine's outcome for an adapter that has only this feature, called ``name``; None if unknown."""
        if name in profile.engine.unknown:
            return None
        own = [row.outcome for row in profile.rows if row.feature == name]
        rows = [row.outcome for row in profile.rows if row.feature in self.along]
        generic = profile.engine.generic.get(self.rule, Outcome.OK)
        return max([*rows, *own] if own else [*rows, generic])
