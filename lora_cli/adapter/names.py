"""The grammar of tensor names in a LoRA adapter: what PEFT writes, and what wrappers leave in between.

On disk a name is ``<prefix><module>.<part>``, with ``base_model.model.`` as the prefix that PEFT writes. The parts are
those of PEFT 0.21 (``tuners/lora/layer.py``, ``tuners/lora/variants.py``, ``utils/save_and_load.py``).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Part = Literal[
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_bias",
    "magnitude",
    "diag",
    "variant",
    "trainable_tokens",
    "bias",
    "base_layer",
    "saved",
    "unknown",
]

PEFT_PREFIX = "base_model.model."

INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Path components that torch.compile, FSDP and activation checkpointing put in front of what they wrap."""

DDP_PREFIX = "module"
"""DistributedDataParallel's wrapper: only at the very start, since a model may have a component of that name."""

MARKS: dict[str, tuple[Part, tuple[tuple[str, ...], ...]]] = {
    "lora_A": ("lora_A", (("weight",),)),
    "lora_B": ("lora_B", (("weight",), ("bias",))),
    "lora_embedding_A": ("lora_embedding_A", ((),)),
    "lora_embedding_B": ("lora_embedding_B", ((),)),
    "lora_magnitude_vector": ("magnitude", (("weight",), ())),
    "lora_diag": ("diag", ((),)),
    "trainable_tokens_delta": ("trainable_tokens", ((),)),
    "lora_monteclora_sampler": ("variant", ()),
    "lora_velora_embed": ("variant", ()),
}
"""The component after a module's path → its part, and the endings allowed after it and an optional adapter name."""

PAIR_PARTS: frozenset[Part] = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"})
"""The parts that make a ``LoraPair``."""


@dataclass(frozen=True, slots=True)
class Key:
    """One tensor name, taken apart.

    ``module`` is the path in the base model, without prefix and infixes. Under ``target_parameters`` PEFT nests its
    wrappers, and the inner ones keep their ``.base_layer``: ``…experts.base_layer`` is the wrapper below ``…experts``.
    ``part`` says what of the module it is:

    - ``lora_A``, ``lora_B``, ``lora_embedding_A``, ``lora_embedding_B``: the factors;
    - ``lora_bias``: ``lora_B.bias``; ``magnitude``: DoRA; ``diag``: KaSA; ``variant``: MonteCLoRA and VeLoRA;
    - ``trainable_tokens``: rows of an embedding;
    - ``base_layer``: the wrapped layer's own weight, copied; ``bias``: its own bias (``bias="lora_only"``);
    - ``saved``: any other parameter of the base (``modules_to_save``, ``bias="all"``, a resized vocabulary);
    - ``unknown``: says ``lora`` but is none of these.

    ``param`` is the parameter's own name for ``saved``, ``bias`` and ``base_layer`` (``weight``, ``bias``), else empty.
    ``prefix`` is what was before the path (``""`` when it is missing, doubled when it is doubled). ``adapter_name`` is
    the infix of ``lora_A.<name>.weight``. ``infixes`` are the wrappers' components, in order.
    """

    name: str
    module: str
    part: Part
    prefix: str = PEFT_PREFIX
    adapter_name: str = ""
    infixes: tuple[str, ...] = ()
    param: str = ""

    @property
    def canonical(self) -> bool:
        """Whether the name is as PEFT writes it to disk: one prefix, no adapter name, no wrapper's component."""
        return self.prefix == PEFT_PREFIX and not self.adapter_name and not self.infixes


ENDINGS: tuple[tuple[str, Part], ...] = ((".lora_A.weight", "lora_A"), (".lora_B.weight", "lora_B"))
ODD = ("lora_", "base_model", "_delta", *INFIXES)
"""Substrings that a usual module's path lacks: a name with one of them is parsed component by component."""


LONGEST_KEPT = 256
MOST_KEPT = 4096

WRAPPER = ".base_layer"
"""The suffix of a module's path under ``target_parameters``, once for each wrapper around it but one."""


def last_name(module: str) -> str:
    """The last component of a module's path: ``q_proj`` of ``model.layers.0.self_attn.q_proj``."""
    return module.rpartition(".")[2]


def without_wrappers(module: str) -> str:
    """The path of the module that PEFT nests wrappers around."""
    end = len(module)
    while module.endswith(WRAPPER, 0, end):
        end -= len(WRAPPER)
    return module[:end]


def leaf_of(module: str) -> str:
    """The last name of a module, without the wrappers that PEFT nests around fused experts."""
    return last_name(without_wrappers(module))


LAYER = re.compile(r"(?:^|(?<=\.))\d{1,9}(?=\.|$)", re.ASCII)


def layer_of(module: str) -> int | None:
    """The number of the layer that a module is in, None if its name has no number."""
    found = LAYER.search(module)
    return int(found.group()) if found else None


def parse_key(name: str) -> Key:
    """Take a tensor name apart. Total: every string has a ``Key``, if only an ``unknown`` one."""
    return _parsed(name) if len(name) <= LONGEST_KEPT else _taken_apart(name)


def parse_keys(names: Collection[str]) -> dict[str, Key]:
    """Each name, taken apart; of more than are ever kept none is."""
    parse = parse_key if len(names) <= MOST_KEPT else _parsed.__wrapped__
    return {name: parse(name) for name in names}


@lru_cache(maxsize=MOST_KEPT)  # adapters of one base have the same names
def _parsed(name: str) -> Key:
    for ending, part in ENDINGS:
        if name.endswith(ending) and name.startswith(PEFT_PREFIX):
            path = name[len(PEFT_PREFIX) : -len(ending)]
            if path and not any(odd in path for odd in ODD):
                return Key(name, path, part)
    return _taken_apart(name)


def _taken_apart(name: str) -> Key:
    components, infixes = name.split("."), tuple[str, ...]()
    if components[0] == DDP_PREFIX or any(infix in name for infix in INFIXES):
        components, infixes = _without_infixes(components)
    count = _prefixes(components)
    prefix = PEFT_PREFIX * count
    path = components[2 * count :]
    module, part, adapter_name, param = _part(path)
    return Key(name, ".".join(module), part, prefix, adapter_name, infixes, param)


def _without_infixes(components: list[str]) -> tuple[list[str], tuple[str, ...]]:
    infixes: list[str] = []
    if len(components) > 1 and components[0] == DDP_PREFIX:
        infixes.append(components[0])
        components = components[1:]
    infixes += [component for component in components if component in INFIXES]
    return [component for component in components if component not in INFIXES], tuple(infixes)


def _prefixes(components: list[str]) -> int:
    count = 0
    while components[2 * count : 2 * count + 2] == ["base_model", "model"]:
        count += 1
    return count


def _part(path: list[str]) -> tuple[list[str], Part, str, str]:
    """Module path, part, adapter name and parameter name of a path without prefix and infixes."""
    last = next((i for i in range(len(path) - 1, 0, -1) if path[i] in MARKS), 0)
    if last:
        module, mark, rest = path[:last], path[last], path[last + 1 :]
        read = _marked(mark, rest)
        if read is not None:
            if mark == "trainable_tokens_delta" and module[-1] == "token_adapter" and len(module) > 1:
                module = module[:-1]
            return module, *read, ""
    *module, leaf = path or [""]
    if not module or any(component.startswith("lora_") for component in path):
        return module, "unknown", "", ""
    if module[-1] == "base_layer" and len(module) > 1:
        return module[:-1], "bias" if leaf == "bias" else "base_layer", "", leaf
    if len(module) > 2 and module[-2] == "modules_to_save":
        return module[:-2], "saved", module[-1], leaf
    return module, "saved", "", leaf


def _marked(mark: str, rest: list[str]) -> tuple[Part, str] | None:
    """Part and adapter name of what follows ``mark``; None when it is not in the grammar."""
    part, endings = MARKS[mark]
    if part == "variant":
        return part, ""
    for ending in endings:
        names = rest[: len(rest) - len(ending)]
        if rest[len(names) :] == list(ending) and len(names) <= 1:
            return "lora_bias" if ending == ("bias",) else part, "".join(names)
    return None
