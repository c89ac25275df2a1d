"""Where the modules of an adapter land in an engine's model, by that engine's own rules of names."""

import re
from collections.abc import Iterable, Iterator, Mapping

from lora_cli.core.adapter import Adapter, LoraPair
from lora_cli.core.base_model import BaseModel
from lora_cli.core.finding import Applied
from lora_cli.core.frozen import dataclass, field
from lora_cli.core.keys import PEFT_PREFIX, Key
from lora_cli.core.targets import OUTPUT_NAMES
from lora_cli.engines.profile import Grammar, Profile

LAYER = re.compile(r"(?:^|\.)(?P<stack>layers|h|blocks|block)\.(?P<idx>\d{1,9})\.", re.ASCII)
"""The number of a layer, wherever it stands, and what the layers are called."""

EXPERTS = r"(?P<block>.+)\.(?:mlp|block_sparse_moe|feed_forward|ffn)\.experts\."
EXPERT = re.compile(EXPERTS + r"(?P<idx>\d{1,9})\.[^.]+", re.ASCII)
FUSED = re.compile(EXPERTS + r"[^.]+")
EXPERT_NAMES = frozenset({"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
TOWERS = re.compile(r"(?:^|\.)(?:visual|vision\w*|audio\w*|image\w*|multi_modal\w*)\.")
VOCABULARY = frozenset({"embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out"})
HEADS = frozenset({"score", "classifier"})


@dataclass(frozen=True, slots=True)
class Landing:
    """Each module of the adapter stands in exactly one of the first five; ``outside`` are names of tensors.

    ``applied`` have a place. ``unexpected`` have a last name that the engine's model has nowhere, ``towers`` are
    in a part that LoRA does not reach, ``partial`` are of a kind that is not in all layers, ``nowhere`` maps each other
    module to why it has no place. ``outside`` maps tensors that the engine does not parse to why.
    ``collisions`` are modules that another one overwrites.
    """

    applied: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    towers: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    nowhere: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    collisions: tuple[str, ...] = ()

    @property
    def counted(self) -> Applied:
        """``applied`` of all."""
        missed = (self.unexpected, self.towers, self.partial, self.nowhere)
        return Applied(len(self.applied), len(self.applied) + sum(map(len, missed)))


@dataclass(frozen=True, slots=True)
class _Model:
    """What the names of an engine's model are compared with."""

    base: BaseModel
    grammar: Grammar
    leaves: frozenset[str]
    in_layers: frozenset[tuple[int, str]]
    experts: Mapping[str, int]
    fused_experts: bool


def land(adapter: Adapter, base: BaseModel, profile: Profile) -> Landing:
    """Sort the modules of ``adapter`` by where the engine of ``profile`` would put them on ``base``; pure."""
    grammar = profile.grammar
    model = _model(base, grammar, fused=base.model_type in profile.engine.fused_experts)
    outside = {key.name: why for key in adapter.keys.values() if (why := _outside(key, grammar))}
    applied: list[str] = []
    unexpected: list[str] = []
    towers: list[str] = []
    nowhere: dict[str, str] = {}
    for module, pair in adapter.pairs.items():
        why = _misnamed(adapter, pair, grammar)
        if (grammar.strict and _ends_in_wrapper(adapter, pair)) or (
            not why and _leaf(module) not in model.leaves and not _expert(module, model)
        ):
            unexpected.append(module)
        elif not why and not grammar.towers and TOWERS.search(module):
            towers.append(module)
        elif why or not _has_place(module, pair, model):
            nowhere[module] = why or _absence(module, model)
        else:
            applied.append(module)
    partial = _partial(applied, base) if grammar.whole_types else frozenset()
    return Landing(
        applied=tuple(module for module in applied if module not in partial),
        unexpected=tuple(unexpected),
        towers=tuple(towers),
        partial=tuple(module for module in applied if module in partial),
        nowhere=nowhere,
        outside=outside,
        collisions=tuple(_collisions(applied)) if grammar.prefix == "ignored" else (),
    )


def _model(base: BaseModel, grammar: Grammar, *, fused: bool) -> _Model:
    linear = {_leaf(path) for path, module in base.modules.items() if module.kind != "embedding"} - OUTPUT_NAMES
    routers = {_leaf(path.removesuffix(".weight")) for path in base.parameters if path.endswith("gate.weight")}
    embeddings = VOCABULARY if grammar.embeddings is None else grammar.embeddings.get(base.model_type, frozenset())
    packed = {name for name, parts in grammar.packed.items() if linear >= set(parts)}
    whole = {"experts", "base_layer"} if any(".experts." in path for path in base.parameters) else set()
    leaves = frozenset(linear | (routers | whole if grammar.experts_apart else set()) | embeddings | packed)
    if grammar.leaves is not None:
        leaves = grammar.leaves
    numbered = ((found, path) for path in base.modules if (found := LAYER.search(path)))
    in_layers = frozenset((int(found["idx"]), _leaf(path)) for found, path in numbered)
    experts = {found["block"]: shape[0] for path, shape in base.parameters.items() if (found := FUSED.fullmatch(path))}
    return _Model(base, grammar, leaves, in_layers, experts, fused)


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _outside(key: Key, grammar: Grammar) -> str:
    """Why a strict engine does not parse this name; empty for one that drops what it does not know."""
    if not grammar.strict or (key.part == "base_layer" and _leaf(key.module) in VOCABULARY):
        return ""
    if grammar.skips_vocabulary and _leaf(key.module) in VOCABULARY:
        return ""
    if key.part == "saved" and _leaf(key.module) in HEADS:
        return ""
    if key.adapter_name and not grammar.adapter_name and key.part in grammar.parts:
        return f"the name holds .{key.adapter_name}., which the adapter was called in memory"
    if key.part in grammar.parts or (key.part == "magnitude" and key.param):
        return ""
    return "the name is none of a factor"


def _misnamed(adapter: Adapter, pair: LoraPair, grammar: Grammar) -> str:
    """Why the factors' names lead nowhere, whatever the module."""
    keys = [adapter.keys[factor.name] for factor in (pair.a, pair.b) if factor is not None]
    if any(key.part not in grammar.parts for key in keys):
        return "it takes no LoRA on an embedding"
    if any(key.adapter_name for key in keys) and not grammar.adapter_name:
        return "the name holds what the adapter was called in memory"
    if any(key.infixes for key in keys) and not grammar.infixes:
        return "the name holds what a wrapper left there"
    if grammar.prefix == "required" and any(key.prefix != PEFT_PREFIX for key in keys):
        return f"the name does not begin with {PEFT_PREFIX} once"
    return ""


def _ends_in_wrapper(adapter: Adapter, pair: LoraPair) -> bool:
    """Whether what a wrapper left is the last component, and so is taken for the module's name."""
    keys = [adapter.keys[factor.name] for factor in (pair.a, pair.b) if factor is not None]
    return any(key.infixes and f".{key.infixes[-1]}.lora_" in key.name for key in keys)


def _has_place(module: str, pair: LoraPair, model: _Model) -> bool:
    leaf = _leaf(module)
    if model.grammar.prefix == "ignored":
        found = _layer(module, model.grammar)
        if found is None:
            return leaf in VOCABULARY and leaf in model.leaves
        names = model.grammar.packed.get(leaf, (leaf,)) if leaf not in _own(model) else (leaf,)
        return all((int(found["idx"]), name) in model.in_layers for name in names) or _expert(module, model)
    paths = (module, *_text_paths(module, model))
    has = any(path in model.base.modules for path in paths)
    return has or f"{module}.weight" in model.base.parameters or _expert(module, model) or _fused(module, model)


def _layer(module: str, grammar: Grammar) -> re.Match[str] | None:
    """The layer that stands in the name, where the engine knows what layers are called there."""
    found = LAYER.search(module)
    return found if found is not None and (not grammar.stacks or found["stack"] in grammar.stacks) else None


def _own(model: _Model) -> frozenset[str]:
    return frozenset(leaf for _, leaf in model.in_layers)


def _text_paths(module: str, model: _Model) -> Iterator[str]:
    """What a multimodal wrapper calls the module that the text model alone calls ``module``."""
    allowed = model.grammar.text_names
    if (allowed is None or model.base.model_type in allowed) and module.startswith("model."):
        yield "model.language_model." + module.removeprefix("model.")
        yield "language_model." + module
    if module.startswith("language_model.model."):  # as the classes were before transformers 4.52
        yield "model.language_model." + module.removeprefix("language_model.model.")


def _expert(module: str, model: _Model) -> bool:
    """Whether this is one expert's projection, of an engine that keeps them apart, and there is such an expert."""
    found = EXPERT.fullmatch(module)
    if found is None or not model.grammar.experts_apart or model.fused_experts or _leaf(module) not in EXPERT_NAMES:
        return False
    return int(found["idx"]) < model.experts.get(found["block"], 0)


def _fused(module: str, model: _Model) -> bool:
    """Whether these are factors of fused experts, of a model that has them so."""
    stem = module.removesuffix(".base_layer")
    return model.fused_experts and any(path.startswith(stem + ".") for path in model.base.parameters)


def _absence(module: str, model: _Model) -> str:
    found = LAYER.search(module)
    if found is not None and int(found["idx"]) >= model.base.num_layers:
        return "the base has no such layer"
    return "the engine's model has no module of that name"


def _partial(modules: Iterable[str], base: BaseModel) -> frozenset[str]:
    """Those whose kind is not there in every layer that the base has it in."""
    by_kind: dict[str, set[int]] = {}
    numbered = [(module, found) for module in modules if (found := LAYER.search(module))]
    for module, found in numbered:
        by_kind.setdefault(_leaf(module), set()).add(int(found["idx"]))
    wanted = {kind: {int(one["idx"]) for path in base.modules if _leaf(path) == kind and (one := LAYER.search(path))}
              for kind in by_kind}  # fmt: skip
    return frozenset(module for module, _ in numbered if not by_kind[_leaf(module)] >= wanted[_leaf(module)])


def _collisions(modules: Iterable[str]) -> Iterator[str]:
    """Modules that are one, where only the layer's number and the last name count."""
    seen: set[tuple[str, str, str]] = set()
    for module in modules:
        if found := LAYER.search(module):
            expert = found.string[found.end() :].rpartition(".")[0] if ".experts." in module else ""
            place = (found["idx"], expert, _leaf(module))
            if place in seen:
                yield module
            seen.add(place)
