"""Which modules of an engine's model the modules of an adapter mean: vLLM goes by their paths, SGLang by the layer."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from lora_cli.adapter.adapter import PAIR_PARTS, Adapter, Key, last_name
from lora_cli.base.base_model import BaseModel
from lora_cli.engines import PACKED, VOCABULARY, Profile, vllm
from lora_cli.finding import Applied
from lora_cli.peft.targets import OUTPUT_NAMES
from lora_cli.text import by_key

LAYER = re.compile(r"(?:^|\.)(?P<stack>layers|h|blocks|block)\.(?P<idx>\d{1,9})\.", re.ASCII)
"""The number of a layer anywhere in a path, and the name of the list of layers."""

EXPERTS = r"(?P<block>.+)\.(?:mlp|block_sparse_moe|feed_forward|ffn)\.experts\."
EXPERT = r"(?a)" + EXPERTS + r"(?P<idx>\d{1,9})\.(?:gate_proj|up_proj|down_proj|w1|w2|w3)"
FUSED = EXPERTS + r"[^.]+"
TOWERS = re.compile(r"(?:^|\.)(?:visual|vision\w*|audio\w*|image\w*|multi_modal\w*)\.")
HEADS = frozenset({"score", "classifier"})
COPIED = frozenset({"embed_tokens", "lm_head"})
"""Modules whose whole weight beside the factors, as ``base_layer``, is passed over."""

APPLIED, UNEXPECTED, TOWER = "applied", "unexpected", "tower"
Place = Callable[[str, list[Key]], str]
"""One of these for a module and the names of its factors, or the reason why it is nowhere."""


@dataclass(frozen=True, slots=True)
class NameResolution:
    """The modules of an adapter by what an engine does with them: each is in exactly one of the first four.

    ``applied`` are in the engine's model, ``unexpected`` have a last name that it does not have, ``towers`` are in a
    tower without LoRA, ``nowhere`` maps the others to the reason. ``collisions`` are those that another one overwrites.
    """

    applied: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    towers: tuple[str, ...] = ()
    nowhere: Mapping[str, str] = field(default_factory=dict)
    collisions: tuple[str, ...] = ()

    @property
    def applied_count(self) -> Applied:
        """How many modules are applied, of how many."""
        missed = (self.unexpected, self.towers, self.nowhere)
        return Applied(len(self.applied), len(self.applied) + sum(map(len, missed)))


def resolve_names(adapter: Adapter, base: BaseModel, profile: Profile) -> NameResolution:
    """Sort the modules of ``adapter`` by what the engine does with them; pure."""
    place = _by_layer(base) if profile.engine.by_layer else _by_path(base, profile)
    pairs, keys = adapter.pairs.items(), adapter.keys
    by_place = by_key((place(one, [keys[factor.name] for factor in pair.factors]), one) for one, pair in pairs)
    applied, unexpected, towers = (tuple(by_place.pop(kind, ())) for kind in (APPLIED, UNEXPECTED, TOWER))
    nowhere = {module: why for why, modules in by_place.items() for module in modules}
    seen: dict[tuple[str, ...], str] = {}
    collisions = []
    for module in applied if profile.engine.by_layer else ():
        if found := LAYER.search(module):
            expert = module[found.end() :].rpartition(".")[0] if ".experts." in module else ""
            if seen.setdefault((found["idx"], expert, last_name(module)), module) is not module:
                collisions.append(module)
    return NameResolution(applied, unexpected, towers, nowhere, tuple(collisions))


def named_alike(adapter: Adapter, profile: Profile) -> bool:
    """Whether the engine takes two tensors for the same factor."""
    factors = (key for key in adapter.keys.values() if key.part in PAIR_PARTS)
    found = [(key.module, key.part) for key in factors if profile.engine.by_layer or not _misnamed(key)]
    return len(set(found)) < len(found)


def _linear(base: BaseModel) -> set[str]:
    """The last names of the linear modules without the head."""
    return {last_name(path) for path, module in base.modules.items() if module.kind != "embedding"} - OUTPUT_NAMES


def _why_absent(module: str, base: BaseModel) -> str:
    found = LAYER.search(module)
    is_beyond = found is not None and int(found["idx"]) >= base.num_layers
    return "the base has no such layer" if is_beyond else "the engine's model has no module of that name"


def _misnamed(key: Key) -> str:
    """Why vLLM ignores a factor of that name, whatever the module; empty if it does not."""
    if key.adapter_name:
        return "the name contains the in-memory adapter name"
    return "the name contains the prefix of a wrapper" if key.infixes else ""


def _by_layer(base: BaseModel) -> Place:
    """SGLang finds a module by the number in ``layers.N`` and its last name, or that of the packed module."""
    linear = _linear(base)
    layered = {(int(found["idx"]), last_name(path)) for path in base.modules if (found := LAYER.search(path))}
    leaves = linear | VOCABULARY | {name for name, parts in PACKED.items() if linear >= set(parts)}
    own = {leaf for _, leaf in layered}

    def place(module: str, _: list[Key]) -> str:
        leaf, found = last_name(module), LAYER.search(module)
        if leaf not in leaves:
            return UNEXPECTED
        if found is None or found["stack"] != "layers":
            return APPLIED if leaf in VOCABULARY else _why_absent(module, base)
        names = (leaf,) if leaf in own else PACKED.get(leaf, (leaf,))
        has = all((int(found["idx"]), name) in layered for name in names)
        return APPLIED if has else _why_absent(module, base)

    return place


def _by_path(base: BaseModel, profile: Profile) -> Place:
    """VLLM finds a module by its path, which a class may rewrite; its models keep experts apart, and towers plain."""
    family, parameters = base.model_type, base.parameters
    leaves = _linear(base) | vllm.EMBEDDINGS.get(family, frozenset())
    leaves |= frozenset() if profile.engine.is_known(base) else vllm.INPUT
    leaves |= {last_name(path.removesuffix(".weight")) for path in parameters if path.endswith("gate.weight")}
    leaves |= {"experts", "base_layer"} if any(".experts." in path for path in parameters) else set()
    leaves -= vllm.SPLIT.get(family, frozenset())
    blocks = {one["block"]: shape[0] for path, shape in parameters.items() if (one := re.fullmatch(FUSED, path))}
    above = {parent for path in parameters for parent in accumulate(path.split(".")[:-1], "{}.{}".format)}
    is_fused, renamed = family in vllm.FUSED_EXPERTS, vllm.BLOCK_NAMES.get(family)
    others = _other_paths(base, profile)

    def is_expert(module: str) -> bool:
        found = None if is_fused else re.fullmatch(EXPERT, module)
        return found is not None and int(found["idx"]) < blocks.get(found["block"], 0)

    def has(module: str) -> bool:
        if renamed:
            if renamed[1] in module:
                return False
            module = module.replace(*renamed)
        paths = any(path in base.modules for path in (module, *others(module)))
        fused = is_fused and module.removesuffix(".base_layer") in above
        return paths or f"{module}.weight" in parameters or fused or is_expert(module)

    def place(module: str, keys: list[Key]) -> str:
        # vLLM takes a wrapper's component at the end for the module's name.
        if any(key.infixes and f".{key.infixes[-1]}.lora_" in key.name for key in keys):
            return UNEXPECTED
        if why := next(filter(None, map(_misnamed, keys)), ""):
            return why
        if last_name(module) not in leaves and not is_expert(module) and "base_layer" not in module:
            return UNEXPECTED
        if TOWERS.search(module):
            return TOWER
        return APPLIED if has(module) else _why_absent(module, base)

    return place


def _other_paths(base: BaseModel, profile: Profile) -> Callable[[str], Iterator[str]]:
    """Other paths of a module to vLLM: in a multimodal wrapper, in a class that it wraps, or with another beginning."""
    family, split = base.model_type, [path.split(".", 2) for path in base.modules]
    prefixes = vllm.PREFIXES.get(family)
    text_names = family in vllm.TEXT_NAMES or profile.is_at_least("0.33")
    root = next((path[0] for path in split if len(path) > 2), "") if family in vllm.WRAPPED else ""
    children = {path[1] for path in split if len(path) > 1 and path[0] == root}

    def others(module: str) -> Iterator[str]:
        if prefixes and module.startswith(prefixes[0]):
            yield prefixes[1] + module.removeprefix(prefixes[0])
        if root:
            # A first component other than ``model`` is read as that, put before the names of its children, and taken
            # off other names once (``_create_hf_to_vllm_mapper`` in ``transformers/base.py``).
            name = f"model.{module.removeprefix(root + '.')}" if module.startswith(f"{root}.") else module
            name = f"model.{name}" if name.partition(".")[0] in children else name
            head, _, rest = name.partition(".")
            if head == "model" and rest.partition(".")[0] not in children:
                head, _, rest = rest.partition(".")
            if head == "model":
                yield f"{root}.{rest}"
        if text_names and module.startswith("model."):
            yield "model.language_model." + module.removeprefix("model.")
            yield "language_model." + module
        if module.startswith("language_model.model."):  # as the classes were before transformers 4.52
            yield "model.language_model." + module.removeprefix("language_model.model.")

    return others
