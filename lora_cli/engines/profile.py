"""What a profile of an engine is made of: rows that say what a feature of an adapter leads to, and how names are read.

A row names its feature by the key of a detector in ``lora_cli.rules.features``; a test holds each to that list.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from lora_cli.core.architectures import FAMILIES
from lora_cli.core.base_model import BaseModel
from lora_cli.core.engine_outcome import Outcome
from lora_cli.core.tensor_keys import PAIR_PARTS, Part
from lora_cli.engines.fixes import MERGE

Proof = Literal["run", "read", "reasoned"]
"""How a row is known: the engine's own code was run on such an adapter, its code was read, or it follows from both."""

Version = tuple[int, ...]

NEVER = "999"
"""A version that is newer than any."""

FACTORS: frozenset[Part] = frozenset({"lora_A", "lora_B"})
"""The factors of a linear layer: those of an embedding are taken by fewer engines."""

VOCABULARY = frozenset({"embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out"})
"""What embeddings of tokens and heads over them are called."""

PACKED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Modules that engines keep in one, by what they call that."""


def packed_in(leaf: str) -> str:
    """What engines call the module that one of this last name is a part of; empty if it is none's."""
    return next((whole for whole, parts in PACKED.items() if leaf in parts), "")


@dataclass(frozen=True, slots=True)
class Row:
    """What one feature of an adapter leads to.

    ``reason`` says what the engine does with it, ``mend`` what fixes it; both may hold fields of what was found in
    braces (``{rank}``). ``evidence`` is the engine's file. ``since`` and ``until`` are the first and the last of the
    engine's versions that the row holds for, empty for all before or after. ``ran`` is the only version that was run;
    of the others the source was read.
    """

    outcome: Outcome
    feature: str
    reason: str
    evidence: str
    proof: Proof = "read"
    mend: str = MERGE
    since: str = ""
    until: str = ""
    ran: str = ""


rejects = partial(Row, Outcome.REJECTS)
crashes = partial(Row, Outcome.CRASHES)
serves_wrong = partial(Row, Outcome.SERVES_WRONG)


@dataclass(frozen=True, slots=True)
class Grammar:
    """How an engine reads the names of tensors, and where a name leads.

    ``prefix``: ``base_model.model.`` may be missing ("optional"), must be there ("required"), or nothing before the
    layer counts ("ignored": a module is found by its layer's number and its last name). ``adapter_name`` and
    ``infixes``: whether ``lora_A.<name>.weight`` and wrappers' components are read over. ``parts`` are those of a
    module that it takes; of the others it refuses the whole adapter (``strict``) or drops the tensor. ``leaves`` are
    the only last names that it knows, None for those that the base has. ``packed`` are the names that it also takes for
    the modules that it packs. ``text_names`` are the families whose multimodal wrapper takes the names of the text
    model alone (None: all); ``towers`` whether LoRA reaches towers of other senses. ``embeddings`` are the embeddings
    and heads that take LoRA, by family (None: all). ``skips_vocabulary``: of these whatever it does not take is
    skipped. ``experts_apart``: its models have each expert's projections by themselves. ``stacks`` is what it knows
    layers to be called (empty: anything). ``whole_types``: of a kind of module that is not there in every layer, none
    is applied.
    """

    prefix: Literal["optional", "required", "ignored"]
    adapter_name: bool = False
    infixes: bool = False
    parts: frozenset[Part] = PAIR_PARTS
    strict: bool = False
    leaves: frozenset[str] | None = None
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    embeddings: Mapping[str, frozenset[str]] | None = None
    text_names: frozenset[str] | None = frozenset()
    towers: bool = True
    skips_vocabulary: bool = False
    experts_apart: bool = False
    stacks: frozenset[str] = frozenset()
    whole_types: bool = False

    def vocabulary(self, base: BaseModel) -> frozenset[str]:
        """The embeddings and heads of a base that take LoRA."""
        return VOCABULARY if self.embeddings is None else self.embeddings.get(base.model_type, frozenset())


@dataclass(frozen=True, slots=True)
class Flags:
    """What the engine calls the options of LoRA, and how it is started.

    ``launch`` is the command before its options; ``{base}`` stands for the model. ``rank`` limits the rank, ``slots``
    is how many adapters one batch may hold, ``memory`` how many are held in the memory of the machine; ``targets``
    names the modules that LoRA is put on, ``adapters`` those that are loaded at start-up, as ``NAME=PATH`` or as JSON
    with ``keys`` for the two; ``pins``: that can say that one never leaves its slot. ``strict`` makes the engine refuse
    an adapter whose tensors it would otherwise leave out silently.
    """

    launch: str
    enable: str
    rank: str
    slots: str
    memory: str
    targets: str
    adapters: str
    keys: tuple[str, str]
    tp: str
    revision: str
    pins: bool = False
    strict: str = ""


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """How the engine lays out its slots. All are allocated when it starts, for ``rank`` rows in each module.

    ``packed`` are modules whose buffers are made together, by the name of the whole. ``stacked`` says how many A's a
    whole has in any case, where that is not as many as it has parts. ``experts`` maps the parameter of fused experts
    to the name under which they are targeted; ``everywhere``: every layer has buffers for experts, whether or not it
    has any, and dense ones only beside shared experts. ``routers`` have LoRA too. ``head_sharded``: tensor parallelism
    cuts the head's B. ``twice`` are names whose buffers are made twice where all of them are targeted.
    ``needs_targets``: it does not start without the names of target modules; ``choices`` are the only names that it
    takes there, empty for any. ``base_slots`` is how many slots the base takes. ``compared`` are the families whose
    buffers were compared with the engine's own; ``evidence`` is where they are made.
    """

    flags: Flags
    packed: Mapping[str, tuple[str, ...]]
    experts: Mapping[str, str]
    stacked: Mapping[str, int] = field(default_factory=dict)
    everywhere: bool = False
    routers: bool = False
    head_sharded: bool = False
    twice: frozenset[str] = frozenset()
    needs_targets: bool = False
    choices: frozenset[str] = frozenset()
    base_slots: int = 0
    compared: frozenset[str] = frozenset()
    evidence: str = ""

    def group(self, name: str) -> frozenset[str]:
        """The names of which each makes the same buffers as ``name``."""
        for whole, parts in self.packed.items():
            if name == whole or name in parts:
                return frozenset({whole, *parts})
        return frozenset({name})


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: all that its versions do, as data.

    ``versions`` are those that were read, oldest first. ``grammars`` maps the first version of each grammar to it.
    ``generic`` maps the rules that hold without an engine to what it makes of what they find: OK where it serves that
    correctly, or where its own rows check it in their place. ``ranks`` are the values that ``max_lora_rank`` may have
    (empty: any), ``default_rank`` what it has by default, None for no limit; ``rank_flag`` how it is set. ``no_lora``
    are families whose class has no LoRA, ``lora_since`` classes of ``architectures`` to the first version in which they
    have it (``NEVER``: none that was read), whatever their family says, ``heads_since`` how the names of classes end
    whose trained head is taken, to the first version that does. ``with_lora`` are families without a table in
    ``core.architectures`` that are known to have it, ``fused_experts`` those whose class has its experts in one tensor.
    ``block_names`` is what a family's class calls the part with the experts, beside transformers' word for it,
    ``reordered`` the modules of which a family's class keeps the outputs in another order. ``unread`` are features
    whose effect is not established. ``slots`` is what its slots are made of and how that is configured, None if that is
    not known.
    """

    name: str
    title: str
    versions: tuple[str, ...]
    rows: tuple[Row, ...]
    grammars: Mapping[str, Grammar]
    generic: Mapping[str, Outcome]
    ranks: tuple[int, ...] = ()
    default_rank: int | None = None
    rank_flag: str = "max_lora_rank"
    no_lora: frozenset[str] = frozenset()
    lora_since: Mapping[str, str] = field(default_factory=dict)
    heads_since: Mapping[str, str] = field(default_factory=dict)
    with_lora: frozenset[str] = frozenset()
    fused_experts: frozenset[str] = frozenset()
    block_names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reordered: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    slots: SlotLayout | None = None

    def is_known(self, base: BaseModel) -> bool:
        """Whether it is known if the engine serves such a base with LoRA."""
        family = base.model_type
        return family in FAMILIES or family in self.with_lora or base.architecture in self.lora_since


@dataclass(frozen=True, slots=True)
class Profile:
    """An engine at a version: ``version`` is the profile's, ``asked`` what the user wrote (empty: the newest).

    ``note`` says why the two differ; ``proven`` is False for a version older than all that were read.
    """

    engine: Engine
    version: str
    asked: str = ""
    note: str = ""
    proven: bool = True

    @property
    def title(self) -> str:
        """``vLLM 0.33``, with the version that was asked for."""
        return f"{self.engine.title} {self.asked or self.version}"

    @property
    def rows(self) -> tuple[Row, ...]:
        """The engine's rows that hold for this version."""
        mine, rows = as_version(self.version), self.engine.rows
        begun = (row for row in rows if as_version(row.since) <= mine)
        held = (row for row in begun if not row.until or mine <= as_version(row.until))
        return tuple(replace(row, proof="read") if row.ran not in {"", self.version} else row for row in held)

    def has_lora(self, base: BaseModel) -> bool:
        """Whether the engine's class of the base takes LoRA, as far as is known."""
        since = self.engine.lora_since.get(base.architecture)
        return base.model_type not in self.engine.no_lora if since is None else self.is_at_least(since)

    def takes_head(self, base: BaseModel) -> bool:
        """Whether the base is of a class whose trained head the engine takes from an adapter."""
        heads = self.engine.heads_since.items()
        return any(base.architecture.endswith(end) and self.is_at_least(since) for end, since in heads)

    def is_at_least(self, since: str) -> bool:
        """Whether this version is that one or newer."""
        return as_version(since) <= as_version(self.version)

    @property
    def grammar(self) -> Grammar:
        """The grammar of this version."""
        mine = as_version(self.version)
        return [one for since, one in self.engine.grammars.items() if as_version(since) <= mine][-1]

    @property
    def allowed(self) -> str:
        """The engine's own limit of ranks, in words."""
        engine = self.engine
        if engine.ranks:
            return f"{engine.rank_flag} is one of {', '.join(map(str, engine.ranks))}; {engine.default_rank} by default"
        if engine.default_rank is not None:
            return f"{engine.rank_flag} is {engine.default_rank} by default"
        has_limit = any(row.feature == "rank-above-max" for row in self.rows)
        return f"any rank up to {engine.rank_flag}" if has_limit else "any rank"


def as_version(text: str) -> Version:
    """``0.5.23`` as numbers, without what follows them (``rc1``, ``+cu129``); empty when it does not begin with any."""
    found = re.match(r"v?([0-9]{1,6}(?:\.[0-9]{1,6}){0,5})", text, re.ASCII)
    return tuple(map(int, found[1].split("."))) if found else ()


GENERIC_OUTCOMES: Mapping[str, Outcome] = {
    **dict.fromkeys(("LC101", "LC102", "LC104", "LC105", "LC106", "LC107", "LC108", "LC109"), Outcome.REJECTS),
    **dict.fromkeys(("LC201", "LC202", "LC208", "LC209"), Outcome.REJECTS),
    **dict.fromkeys(("LC203", "LC204", "LC205"), Outcome.SERVES_WRONG),
    **dict.fromkeys(("LC301", "LC306", "LC314", "LC316", "LC321", "LC322"), Outcome.REJECTS),
    **dict.fromkeys(("LC302", "LC303", "LC305", "LC307", "LC308", "LC309", "LC310"), Outcome.SERVES_WRONG),
    **dict.fromkeys(("LC311", "LC312", "LC313", "LC315", "LC317"), Outcome.SERVES_WRONG),
    **dict.fromkeys(("LC501", "LC502", "LC503"), Outcome.SERVES_WRONG),
}
"""What happens to errors of the rules without an engine, unless an engine's own table says otherwise."""

ENGINE_INDEPENDENT = frozenset({"LC206", "LC505", "LC602"})
"""Errors that no engine notices, and that stay errors: what they are about is not how the adapter is served.

An update that is too small (LC505) is served as small as it was trained.
"""

NAME_RULES = frozenset({"LC303", "LC307", "LC311", "LC312"})
"""Rules about where names lead, which every engine but PEFT has its own rows for: none survives them in general."""

OWN_NAME_RULES: Mapping[str, Outcome] = dict.fromkeys(sorted(NAME_RULES), Outcome.OK)
"""For an engine whose own rows check where names lead: what PEFT would find there says nothing about it."""
