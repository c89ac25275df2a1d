"""Profiles of engines: how names are read, which models take LoRA, and what slots are.

What an engine does with which adapters stands with the checks (``lora_cli.checks``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import FAMILIES
from lora_cli.finding import Effect, Outcome

Version = tuple[int, ...]

NEVER = "999"
"""A version that is newer than any."""

VOCABULARY = frozenset({"embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out"})
"""Names of token embeddings and of output heads."""

PACKED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Modules that engines pack into one, by the name of the packed module."""


def packed_in(leaf: str) -> str:
    """The name of the packed module that contains a module with this last name; empty if there is none."""
    return next((whole for whole, parts in PACKED.items() if leaf in parts), "")


@dataclass(frozen=True, slots=True)
class Names:
    """What a version of an engine that goes by paths accepts, by family.

    ``embeddings`` are the embeddings and heads that support LoRA. ``wrapped`` are the families that it serves through
    transformers' classes, whose names may lack their first component, or have ``model.`` twice. ``text_names`` are
    those whose multimodal wrapper accepts the names of the text model alone (None: all).
    """

    embeddings: Mapping[str, frozenset[str]]
    wrapped: frozenset[str]
    text_names: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Flags:
    """The names of the engine's LoRA options, and the command that starts it.

    ``launch`` is the command before its options, with ``{base}`` for the model. ``rank`` limits the rank, ``slots`` the
    adapters in one batch, ``memory`` the adapters in the machine's memory. ``targets`` lists the modules with LoRA,
    ``adapters`` those that are loaded at start-up, as ``NAME=PATH`` or as JSON with ``keys`` for the two; with ``pins``
    one can be pinned to its slot there. ``strict`` makes the engine refuse an adapter instead of dropping tensors.
    """

    launch: str
    enable: str
    rank: str
    slots: str
    memory: str
    targets: str
    adapters: str
    keys: tuple[str, str]
    revision: str
    pins: bool = False
    strict: str = ""


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """How an engine is told of its slots, all of which it allocates when it starts.

    ``choices`` are the only names that its list of target modules may have (empty: any). ``experts_as_one``: one name
    there stands for all experts. ``base_slots`` are the slots that the base takes.
    """

    flags: Flags
    choices: frozenset[str] = frozenset()
    experts_as_one: bool = False
    base_slots: int = 0


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: the behaviour of all its versions, as data.

    ``versions`` are those with a profile, oldest first. ``by_layer``: it finds a module by the number of its layer and
    its last name, else by its path, by the ``names`` of the first version that has them.
    ``ranks`` are the possible values of ``max_lora_rank`` (empty: any), ``default_rank`` its default (None: no limit).
    ``unexpected`` is what it does with a module whose last name its model does not have, ``beyond`` with one in a layer
    that its model does not have. ``reads_peft_type``: tensors of LoRA are not enough for it.

    ``no_lora`` are families whose class does not support LoRA. ``lora_since`` maps classes of ``architectures`` to the
    first version in which they do (``NEVER``: none of the profiles), whatever their family. ``heads_since`` maps ends
    of class names to the first version that loads their trained head. ``with_lora`` are other families that support
    LoRA, without a table in ``core.architectures``. ``fused_experts`` are families whose class has its experts in one
    tensor. ``block_names`` is the class's and transformers' name of the block with the experts, ``reordered`` the
    modules whose outputs the class keeps in another order, ``split`` names of transformers' modules that it does not
    have, ``prefixes`` a beginning of names that it rewrites, and to what. ``unknown_embeddings`` are the embeddings and
    heads that support LoRA in families that are not known. ``slots`` is None if the layout of the slots is unknown.
    """

    name: str
    title: str
    versions: tuple[str, ...]
    by_layer: bool = False
    names: Mapping[str, Names] = field(default_factory=dict)
    unexpected: Outcome = Outcome.SERVES_WRONG
    beyond: Outcome = Outcome.SERVES_WRONG
    reads_peft_type: bool = True
    ranks: tuple[int, ...] = ()
    default_rank: int | None = None
    no_lora: frozenset[str] = frozenset()
    lora_since: Mapping[str, str] = field(default_factory=dict)
    heads_since: Mapping[str, str] = field(default_factory=dict)
    with_lora: frozenset[str] = frozenset()
    fused_experts: frozenset[str] = frozenset()
    block_names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reordered: Mapping[str, frozenset[str]] = field(default_factory=dict)
    split: Mapping[str, frozenset[str]] = field(default_factory=dict)
    prefixes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unknown_embeddings: frozenset[str] = frozenset()
    slots: SlotLayout | None = None

    def is_known(self, base: BaseModel) -> bool:
        """Whether it is known if the engine supports LoRA on such a base."""
        family = base.model_type
        return family in FAMILIES or family in self.with_lora or base.architecture in self.lora_since


@dataclass(frozen=True, slots=True)
class Profile:
    """An engine at a version: ``version`` is the profile's, ``requested`` the user's (empty: the newest).

    ``note`` says why the two differ; ``proven`` is False for a version older than all profiles.
    """

    engine: Engine
    version: str
    requested: str = ""
    note: str = ""
    proven: bool = True

    @property
    def title(self) -> str:
        """``vLLM 0.33``, with the requested version."""
        return f"{self.engine.title} {self.requested or self.version}"

    def effect(self, effect: Effect) -> Outcome:
        """What this version does, of an effect that may depend on the version."""
        if isinstance(effect, Outcome):
            return effect
        own = as_version(self.version)
        return next(found for until, found in effect.items() if not until or own <= as_version(until))

    def has_lora(self, architecture: str, model_type: str) -> bool:
        """Whether the engine's class of a base supports LoRA, as far as is known; ``architecture`` may be empty."""
        since = self.engine.lora_since.get(architecture)
        return model_type not in self.engine.no_lora if since is None else self.is_at_least(since)

    def takes_head(self, architecture: str) -> bool:
        """Whether the engine loads a trained head on a base of this class; the end of its name is enough."""
        heads = self.engine.heads_since.items()
        return any(architecture.endswith(end) and self.is_at_least(since) for end, since in heads)

    def is_at_least(self, since: str) -> bool:
        """Whether this version is that one or newer."""
        return as_version(since) <= as_version(self.version)

    @property
    def names(self) -> Names:
        """The names that this version accepts."""
        return [names for since, names in self.engine.names.items() if self.is_at_least(since)][-1]

    @property
    def allowed(self) -> str:
        """The engine's own limit of ranks, in words."""
        engine = self.engine
        if engine.ranks:
            return f"--max-lora-rank is one of {', '.join(map(str, engine.ranks))}; {engine.default_rank} by default"
        return "any rank" if engine.slots is None else "any rank up to --max-lora-rank"


@lru_cache(maxsize=256)
def as_version(text: str) -> Version:
    """``0.5.23`` as numbers, without a suffix (``rc1``, ``+cu129``); empty if it does not start with a number."""
    found = re.match(r"v?([0-9]{1,6}(?:\.[0-9]{1,6}){0,5})", text, re.ASCII)
    return tuple(map(int, found[1].split("."))) if found else ()
