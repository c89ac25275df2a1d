"""What an engine's LoRA slots are made of, and how that is configured: a part of its profile, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

ROW_PARALLEL = frozenset({"o_proj", "out_proj", "dense", "down_proj", "fc2", "c_proj"})
"""Modules whose input tensor parallelism cuts, and with it their A; of the others it cuts the output, and their B."""

REPLICATED = frozenset(
    {"gate", "router", "shared_expert_gate", "q_a_proj", "kv_a_proj_with_mqa", "project_in", "project_out"}
)
"""Modules that every GPU has whole."""


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
