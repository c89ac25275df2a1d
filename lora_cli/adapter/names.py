"""The grammar of tensor names in a LoRA adapter: what PEFT writes, and what wrappers leave in between.

On disk a name is ``<prefix><module>.<part>``, with ``base_model.model.`` as the prefix that PEFT writes. The parts are
those of PEFT 0.21 (``tuners/lora/layer.py``, ``tuners/lora/variants.py``, ``utils/save_and_load.py``).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

Factor = Literal["lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"]
Own = Literal["lora_bias", "magnitude", "diag", "variant", "trainable_tokens"]
Part = Factor | Own | Literal["bias", "base_layer", "saved", "unknown"]

PEFT_PREFIX = "base_model.model."

INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Path components that torch.compile, FSDP and activation checkpointing put in front of what they wrap."""

DDP_PREFIX = "module"
"""DistributedDataParallel's wrapper: only at the very start, since a model may have a component of that name."""

MARKS: dict[str, tuple[tuple[Part, str], ...]] = {
    "lora_A": (("lora_A", "weight"),),
    "lora_B": (("lora_B", "weight"), ("lora_bias", "bias")),
    "lora_embedding_A": (("lora_embedding_A", ""),),
    "lora_embedding_B": (("lora_embedding_B", ""),),
    "lora_magnitude_vector": (("magnitude", "weight"), ("magnitude", "")),
    "lora_diag": (("diag", ""),),
    "trainable_tokens_delta": (("trainable_tokens", ""),),
}
"""The component after a module's path → the parts, each by the name that ends it after an optional adapter name."""
VARIANTS = frozenset({"lora_monteclora_sampler", "lora_velora_embed"})
"""Components of variants, with anything behind them."""

PAIR_PARTS: frozenset[Part] = frozenset(get_args(Factor))
"""The parts that make a ``LoraPair``."""

WRAPPER = ".base_layer"
"""The suffix of a module's path under ``target_parameters``, once for each wrapper around it but one."""

ODD = re.compile("lora_|base_model|_delta|" + "|".join(INFIXES))
"""What the path of a usual module lacks: a name with it is taken apart component by component."""

LAYER = re.compile(r"(?:^|(?<=\.))\d{1,9}(?=\.|$)", re.ASCII)


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


def layer_of(module: str) -> int | None:
    """The number of the layer that a module is in, None if its name has no number."""
    found = LAYER.search(module)
    return int(found.group()) if found else None


@lru_cache(maxsize=4096)  # adapters of one base have the same names
def parse_key(name: str) -> Key:
    """Take a tensor name apart. Total: every string has a ``Key``, if only an ``unknown`` one."""
    mark: Part = "lora_A" if name.endswith(".lora_A.weight") else "lora_B"
    path = name[len(PEFT_PREFIX) : -len(".lora_A.weight")]
    if name == f"{PEFT_PREFIX}{path}.{mark}.weight" and not ODD.search(path):
        return Key(name, path, mark)
    components, infixes, count = name.split("."), list[str](), 0
    if components[0] == DDP_PREFIX and len(components) > 1:
        infixes.append(components.pop(0))
    if any(infix in name for infix in INFIXES):
        infixes += [one for one in components if one in INFIXES]
        components = [one for one in components if one not in INFIXES]
    while components[2 * count : 2 * count + 2] == ["base_model", "model"]:
        count += 1
    module, part, adapter_name, param = _part(components[2 * count :])
    return Key(name, ".".join(module), part, PEFT_PREFIX * count, adapter_name, tuple(infixes), param)


def _part(path: list[str]) -> tuple[list[str], Part, str, str]:
    """Module path, part, adapter name and parameter name of a path without prefix and infixes."""
    last = next((i for i in range(len(path) - 1, 0, -1) if path[i] in MARKS or path[i] in VARIANTS), 0)
    module, rest = path[:last], path[last + 1 :]
    if last and path[last] in VARIANTS:
        return module, "variant", "", ""
    for part, ending in MARKS[path[last]] if last else ():
        names = rest[:-1] if ending else rest
        if len(names) <= 1 and rest[len(names) :] == [ending][: len(ending)]:
            if part == "trainable_tokens" and module[-1] == "token_adapter" and len(module) > 1:
                module.pop()
            return module, part, "".join(names), ""
    *module, leaf = path or [""]
    if not module or any(component.startswith("lora_") for component in path):
        return module, "unknown", "", ""
    if module[-1] == "base_layer" and len(module) > 1:
        return module[:-1], "bias" if leaf == "bias" else "base_layer", "", leaf
    if len(module) > 2 and module[-2] == "modules_to_save":
        return module[:-2], "saved", module[-1], leaf
    return module, "saved", "", leaf
