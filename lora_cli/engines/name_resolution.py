"""Which modules of an engine's model the modules of an adapter mean, by the engine's own rules for names."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.names import PAIR_PARTS, Key, Part, last_name
from lora_cli.base.base_model import BaseModel
from lora_cli.engines.profile import VOCABULARY, Grammar, Profile
from lora_cli.finding import Applied
from lora_cli.peft.targets import OUTPUT_NAMES

LAYER = re.compile(r"(?:^|\.)(?P<stack>layers|h|blocks|block)\.(?P<idx>\d{1,9})\.", re.ASCII)
"""The number of a layer anywhere in a path, and the name of the list of layers."""

EXPERTS = r"(?P<block>.+)\.(?:mlp|block_sparse_moe|feed_forward|ffn)\.experts\."
EXPERT = r"(?a)" + EXPERTS + r"(?P<idx>\d{1,9})\.[^.]+"
FUSED = EXPERTS + r"[^.]+"
EXPERT_NAMES = frozenset({"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
TOWERS = re.compile(r"(?:^|\.)(?:visual|vision\w*|audio\w*|image\w*|multi_modal\w*)\.")
HEADS = frozenset({"score", "classifier"})
COPIED = frozenset({"embed_tokens", "lm_head"})
"""Modules whose whole weight beside the factors, as ``base_layer``, is passed over."""


@dataclass(frozen=True, slots=True)
class NameResolution:
    """The modules of an adapter by what an engine does with them: each is in exactly one of the first four.

    ``applied`` are in the engine's model. ``unexpected`` have a last name that no module of the model has. ``towers``
    are in a tower without LoRA. ``nowhere`` maps the other modules to the reason why they are not in the model.
    ``collisions`` are modules that another one overwrites.
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


@dataclass(frozen=True, slots=True)
class _Model:
    """The names in an engine's model of ``base``.

    ``leaves`` are the last names of its modules, ``own`` those in its layers, ``in_layers`` the same with the number of
    the layer. ``experts`` maps blocks to their number of experts, ``above`` are the paths above the base's parameters,
    ``block_names`` the engine's and transformers' name of the block with the experts, ``prefixes`` a beginning of names
    and what the engine makes of it. ``wrapped`` is the first component of paths, and the second ones, for a class of
    transformers that the engine wraps.
    """

    base: BaseModel
    grammar: Grammar
    leaves: frozenset[str]
    in_layers: frozenset[tuple[int, str]]
    own: frozenset[str]
    experts: Mapping[str, int]
    above: frozenset[str]
    fused_experts: bool
    block_names: tuple[str, str] | None
    prefixes: tuple[str, str] | None
    wrapped: tuple[str, frozenset[str]] | None


def resolve_names(adapter: Adapter, base: BaseModel, profile: Profile) -> NameResolution:
    """Sort the modules of ``adapter`` by what the engine does with them; pure."""
    grammar = profile.grammar
    model = _model(base, profile)
    applied: list[str] = []
    unexpected: list[str] = []
    towers: list[str] = []
    nowhere: dict[str, str] = {}
    for module, pair in adapter.pairs.items():
        keys = [adapter.keys[factor.name] for factor in pair.factors]
        why = _why_misnamed(keys, grammar)
        # The engine takes a wrapper's component at the end for the module's name.
        ends_in_wrapper = any(key.infixes and f".{key.infixes[-1]}.lora_" in key.name for key in keys)
        is_known = last_name(module) in model.leaves or _is_expert(module, model) or _is_unchecked(module, grammar)
        if (grammar.strict and ends_in_wrapper) or (not why and not is_known):
            unexpected.append(module)
        elif not why and not grammar.towers and TOWERS.search(module):
            towers.append(module)
        elif why or not _has_place(module, model):
            nowhere[module] = why or _why_absent(module, model)
        else:
            applied.append(module)
    return NameResolution(
        applied=tuple(applied),
        unexpected=tuple(unexpected),
        towers=tuple(towers),
        nowhere=nowhere,
        collisions=tuple(_collisions(applied)) if grammar.prefix == "ignored" else (),
    )


def named_alike(adapter: Adapter, grammar: Grammar) -> list[str]:
    """The names of tensors that the engine takes for the factor that an earlier tensor is, too."""
    factors = [key for key in adapter.keys.values() if key.part in PAIR_PARTS and not _why_misnamed([key], grammar)]
    seen: set[tuple[str, Part]] = set()
    alike = []
    for key in factors:
        if (key.module, key.part) in seen:
            alike.append(key.name)
        seen.add((key.module, key.part))
    return alike


def _model(base: BaseModel, profile: Profile) -> _Model:
    grammar, engine = profile.grammar, profile.engine
    linear = {last_name(path) for path, module in base.modules.items() if module.kind != "embedding"} - OUTPUT_NAMES
    routers = {last_name(path.removesuffix(".weight")) for path in base.parameters if path.endswith("gate.weight")}
    packed = {name for name, parts in grammar.packed.items() if linear >= set(parts)}
    whole = {"experts", "base_layer"} if any(".experts." in path for path in base.parameters) else set()
    vocabulary = grammar.vocabulary(base) | (frozenset() if engine.is_known(base) else engine.unknown_embeddings)
    leaves = frozenset(linear | (routers | whole if grammar.experts_apart else set()) | vocabulary | packed)
    leaves -= engine.split.get(base.model_type, frozenset())
    numbered = ((found, path) for path in base.modules if (found := LAYER.search(path)))
    in_layers = frozenset((int(found["idx"]), last_name(path)) for found, path in numbered)
    experts = {
        found["block"]: shape[0] for path, shape in base.parameters.items() if (found := re.fullmatch(FUSED, path))
    }
    own = frozenset(leaf for _, leaf in in_layers)
    above = frozenset(parent for path in base.parameters for parent in accumulate(path.split(".")[:-1], "{}.{}".format))
    fused, block_names = base.model_type in engine.fused_experts, engine.block_names.get(base.model_type)
    prefixes = engine.prefixes.get(base.model_type)
    wrapped = _wrapped(base, grammar)
    return _Model(base, grammar, leaves, in_layers, own, experts, above, fused, block_names, prefixes, wrapped)


def _is_unchecked(module: str, grammar: Grammar) -> bool:
    """Whether an engine with separate experts does not look the name up, because it may be one of fused experts."""
    return grammar.experts_apart and "base_layer" in module


def _why_misnamed(keys: Sequence[Key], grammar: Grammar) -> str:
    """Why the engine ignores factors with such names, whatever the module; empty if it does not."""
    if not grammar.adapter_name and any(key.adapter_name for key in keys):
        return "the name contains the in-memory adapter name"
    if not grammar.infixes and any(key.infixes for key in keys):
        return "the name contains the prefix of a wrapper"
    return ""


def _has_place(module: str, model: _Model) -> bool:
    leaf = last_name(module)
    if model.block_names:
        own, other = model.block_names
        if other in module:
            return False
        module = module.replace(own, other)
    if model.grammar.prefix == "ignored":
        found = _layer(module, model.grammar)
        if found is None:
            return leaf in VOCABULARY and leaf in model.leaves
        names = model.grammar.packed.get(leaf, (leaf,)) if leaf not in model.own else (leaf,)
        return all((int(found["idx"]), name) in model.in_layers for name in names) or _is_expert(module, model)
    paths = (module, *_other_paths(module, model))
    has = any(path in model.base.modules for path in paths) or f"{module}.weight" in model.base.parameters
    is_fused = model.fused_experts and module.removesuffix(".base_layer") in model.above
    return has or is_fused or _is_expert(module, model)


def _layer(module: str, grammar: Grammar) -> re.Match[str] | None:
    """The layer in the path, if the engine knows that name of the list of layers."""
    found = LAYER.search(module)
    return found if found is not None and (not grammar.stacks or found["stack"] in grammar.stacks) else None


def _other_paths(module: str, model: _Model) -> Iterator[str]:
    """Other paths of ``module`` to the engine: in a multimodal wrapper, or with a beginning that it rewrites."""
    if model.prefixes and module.startswith(model.prefixes[0]):
        yield model.prefixes[1] + module.removeprefix(model.prefixes[0])
    if model.wrapped:
        yield from _unwrapped(module, *model.wrapped)
    allowed = model.grammar.text_names
    if (allowed is None or model.base.model_type in allowed) and module.startswith("model."):
        yield "model.language_model." + module.removeprefix("model.")
        yield "language_model." + module
    if module.startswith("language_model.model."):  # as the classes were before transformers 4.52
        yield "model.language_model." + module.removeprefix("language_model.model.")


def _unwrapped(module: str, root: str, children: frozenset[str]) -> Iterator[str]:
    """The path in the base of a module whose name begins in another way, for an engine that wraps its class.

    vLLM reads a first component other than ``model`` as that, puts it before the names of its children, and takes it
    off other names once (``_create_hf_to_vllm_mapper`` in ``transformers/base.py``).
    """
    name = f"model.{module.removeprefix(root + '.')}" if module.startswith(f"{root}.") else module
    if name.partition(".")[0] in children:
        name = f"model.{name}"
    head, _, rest = name.partition(".")
    if head == "model" and rest.partition(".")[0] not in children:
        head, _, rest = rest.partition(".")
    if head == "model":
        yield f"{root}.{rest}"


def _wrapped(base: BaseModel, grammar: Grammar) -> tuple[str, frozenset[str]] | None:
    """The first component of the layers' paths and the second ones below it, for a class that the engine wraps."""
    if base.model_type not in grammar.wrapped:
        return None
    paths = [path.split(".", 2) for path in base.modules]
    root = next((path[0] for path in paths if len(path) > 2), "")
    return (root, frozenset(path[1] for path in paths if len(path) > 1 and path[0] == root)) if root else None


def _is_expert(module: str, model: _Model) -> bool:
    """Whether this is the projection of an existing expert, for an engine with separate experts."""
    if not model.grammar.experts_apart or model.fused_experts or last_name(module) not in EXPERT_NAMES:
        return False
    found = re.fullmatch(EXPERT, module)
    return found is not None and int(found["idx"]) < model.experts.get(found["block"], 0)


def _why_absent(module: str, model: _Model) -> str:
    found = LAYER.search(module)
    if found is not None and int(found["idx"]) >= model.base.num_layers:
        return "the base has no such layer"
    return "the engine's model has no module of that name"


def _collisions(modules: Iterable[str]) -> Iterator[str]:
    """Modules with the layer number and last name of another one."""
    seen: set[tuple[str, str, str]] = set()
    for module in modules:
        if found := LAYER.search(module):
            expert = found.string[found.end() :].rpartition(".")[0] if ".experts." in module else ""
            place = (found["idx"], expert, last_name(module))
            if place in seen:
                yield module
            seen.add(place)
