"""The parts of an adapter that the runtime can compose onto a base; others are refused by name. Torch-free."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from lora_cli.adapter.adapter import Adapter, LoraPair
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import PAIR_PARTS, Key
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import FormatError, Refused
from lora_cli.peft.experts import rewrite_config
from lora_cli.peft.targets import scales, targeted_in, timed, wrapped_parameters

ALTERING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` with which PEFT changes the base's weights when it loads the adapter."""

FEATURES: Mapping[str, str] = {
    "use_dora": "DoRA",
    "bias": "biases",
    "lora_bias": "biases on lora_B",
    "modules_to_save": "modules_to_save",
    "target_parameters": "fused experts and bare parameters",
    "trainable_token_indices": "trained tokens",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
"""Variants whose forward is more than ``W + s*B*A``, by the field that turns them on."""

NEEDS_FULL_MODEL = frozenset({"use_dora", "bias", "lora_bias", "modules_to_save", "target_parameters"})
"""Fields of variants that need the full model, with its own weights."""

FULL_MODEL_PARTS = frozenset({"magnitude", "lora_bias"})
"""Parts that go with them; biases and saved modules do where the config says so."""

PART_NAMES = {
    "magnitude": "a DoRA magnitude",
    "bias": "a bias",
    "lora_bias": "a bias on lora_B",
    "saved": "a module saved whole (modules_to_save)",
    "base_layer": "the base's own weight with a different shape",
    "trainable_tokens": "trained tokens",
    "diag": "a KaSA diagonal",
    "variant": "a LoRA variant's tensor",
    "unknown": "a tensor of an unknown kind",
}

COPY_PARTS = ("base_layer", "saved")

HINT = "lora-cli validate checks if an engine can serve it; this supports plain LoRA on linear and embedding layers"
FULL_MODEL_HINT = "use --forward model, which supports it"


@dataclass(slots=True)
class ExtraTensorNames:
    """The tensor names of one module's extra weights.

    ``params`` and ``updates`` are by the parameter's name; an update is the path of its pair and its scaling.
    """

    params: dict[str, str] = field(default_factory=dict)
    updates: dict[str, tuple[str, float]] = field(default_factory=dict)
    magnitude: str = ""
    shift: str = ""


def scalings(adapter: Adapter, base: BaseModel, *, full_model: bool = False) -> dict[str, float]:
    """PEFT's scaling of every module of ``adapter`` with factors for a slot, by path, in the file's order.

    All of it can be composed, with ``full_model`` onto a whole model.

    Raises:
        Refused: it uses a feature, holds a tensor, or names a module that the runtime does not compose.
        FormatError: its config or header cannot be read, or it holds no LoRA at all.
    """
    config = rewrite_config(_readable(adapter), base)
    for reason, hint in _obstacles(adapter, config, base, full_model=full_model):
        raise Refused(f"{adapter.name}: {reason}", hint=hint)
    if not adapter.pairs:
        raise FormatError("has no LoRA weights", where=adapter.name)
    wrapped = wrapped_parameters(config, base.parameters)
    modules = [module for module in adapter.pairs if module not in wrapped]
    return {module: scale.scaling for module, scale in scales(config, modules).items()}


def extra_tensor_names(adapter: Adapter, base: BaseModel) -> dict[str, ExtraTensorNames]:
    """The tensor names of an adapter's extra weights, by module path."""
    config = rewrite_config(_readable(adapter), base)
    replaces = _replacing(config)
    found: dict[str, ExtraTensorNames] = defaultdict(ExtraTensorNames)
    for name, key in adapter.keys.items():
        if key.part == "magnitude":
            found[key.module].magnitude = name
        elif key.part == "lora_bias":
            found[key.module].shift = name
        elif replaces(key):
            found[key.module].params[key.param] = name
    wrapped = wrapped_parameters(config, base.parameters)
    scaling = scales(config, wrapped.values())
    for wrapper, parameter in wrapped.items():
        module, _, param = parameter.rpartition(".")
        if wrapper in adapter.pairs:
            found[module].updates[param] = (wrapper, scaling[parameter].scaling)
    return found


def _replacing(config: LoraConfig) -> Callable[[Key], bool]:
    """Whether a tensor is in place of a parameter of the base: a trained bias, or a module of modules_to_save.

    What is returned raises ``FormatError`` if there are more names than can be compared in time.
    """
    saved = [f".{name}." for name in config.modules_to_save or ()]

    def replaces(key: Key) -> bool:
        if key.part in {"bias", *COPY_PARTS} and key.param == "bias" and config.bias != "none":
            return True
        with timed(f"{config.file}: modules_to_save"):
            return key.part == "saved" and any(name in f".{key.module}." for name in saved)

    return replaces


def copied_modules(adapter: Adapter, base: BaseModel) -> dict[str, str]:
    """Tensors that may be mere copies of the base's own weight, by name: the module each is of.

    They have the shape of the base's. Whether they are equal to it, only the values say (``shelf``).
    """
    found: dict[str, str] = {}
    replaces = _replacing(adapter.config) if adapter.config is not None else lambda _: False
    for name, key in adapter.keys.items():
        module = base.modules.get(key.module)
        if module is None or key.part not in COPY_PARTS or key.param != "weight" or name not in adapter.tensors:
            continue
        if replaces(key):
            continue
        shape = (module.d_out, module.d_in) if module.kind == "linear" else (module.d_in, module.d_out)
        if adapter.tensors[name].shape == shape:
            found[name] = key.module
    return found


def largest_rank(adapter: Adapter, base: BaseModel) -> int:
    """The largest rank that the tensors of modules of ``base`` themselves have; 0 without any."""
    return max((pair.rank or 0 for path, pair in adapter.pairs.items() if path in base.modules), default=0)


def _readable(adapter: Adapter) -> LoraConfig:
    for error in (adapter.config_error, adapter.weights_error):
        if error is not None:
            raise error
    if adapter.config is None:
        raise FormatError("has no adapter_config.json", where=adapter.name)
    return adapter.config


def _obstacles(adapter: Adapter, config: LoraConfig, base: BaseModel, *, full_model: bool) -> Iterator[tuple[str, str]]:
    """Each reason why not, as "…" after the adapter's name, and what to do about it."""
    for field_name, feature in FEATURES.items():
        present = config.bias != "none" if field_name == "bias" else getattr(config, field_name)
        if present and not (full_model and field_name in NEEDS_FULL_MODEL):
            how, hint = (
                ("module by module", FULL_MODEL_HINT)
                if field_name in NEEDS_FULL_MODEL
                else ("by the runtime yet", HINT)
            )
            yield f"{feature} cannot be composed {how} ({field_name} in its config)", hint
    for reason in _tensor_obstacles(adapter, config, base, full_model=full_model):
        yield reason, HINT


def _tensor_obstacles(adapter: Adapter, config: LoraConfig, base: BaseModel, *, full_model: bool) -> Iterator[str]:
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(ALTERING):
        yield f"it was trained on base weights changed by its initialisation (init_lora_weights {init!r})"
    copies, replaces = copied_modules(adapter, base), _replacing(config)
    for name, key in adapter.keys.items():
        extra = full_model and (key.part in FULL_MODEL_PARTS or replaces(key))
        if key.part not in PAIR_PARTS and name not in copies and not extra:
            yield f"{name} is {PART_NAMES[key.part]}, which cannot be composed by the runtime yet"
    used = {info.name for pair in adapter.pairs.values() for info in (pair.a, pair.b) if info is not None}
    for name in adapter.tensors:
        if name not in used and name not in copies and adapter.keys[name].part in PAIR_PARTS:
            yield f"{name} is a factor that another tensor also provides"
    wrapped = wrapped_parameters(config, base.parameters) if full_model else {}
    for module, pair in adapter.pairs.items():
        yield from _pair_obstacles(module, pair) if module in wrapped else _module_obstacles(module, pair, base)
    yield from _target_obstacles(adapter, config, base, wrapped)


def _target_obstacles(
    adapter: Adapter, config: LoraConfig, base: BaseModel, wrapped: Mapping[str, str]
) -> Iterator[str]:
    chosen = targeted_in(config, base)
    for module in adapter.pairs:
        if module not in chosen and module not in wrapped:
            yield f"it has factors for {module}, which its config does not target: PEFT would ignore them"
    embeddings = [module for module in chosen if base.modules[module].kind == "embedding"]
    if config.ensure_weight_tying and base.tied_embeddings and (embeddings or config.modules_to_save):
        tied = embeddings[0] if embeddings else "modules_to_save"
        yield f"one LoRA tied across {tied} and the output cannot be composed yet (ensure_weight_tying)"


def _module_obstacles(module: str, pair: LoraPair, base: BaseModel) -> Iterator[str]:
    target = base.modules.get(module)
    if target is None:
        yield f"{module} is not a module of {base.name} that supports LoRA"
    elif (target.kind == "embedding") != pair.embedding:
        yield f"{module} is of kind {target.kind} in the base, but the adapter's factors are for another"
    yield from _pair_obstacles(module, pair)


def _pair_obstacles(module: str, pair: LoraPair) -> Iterator[str]:
    for info in (pair.a, pair.b):
        if info is None:
            yield f"{module} has only one of its two factors"
        elif len(info.shape) != 2:
            yield f"{info.name} has {len(info.shape)} dimensions; the factors of a linear layer or an embedding have 2"
    if pair.a is not None and pair.b is not None and (pair.a.shape[:1], pair.b.shape[1:]) != ((pair.rank,),) * 2:
        yield f"{module}: A has rank {pair.a.shape[0]} and B has rank {pair.b.shape[-1]}"
