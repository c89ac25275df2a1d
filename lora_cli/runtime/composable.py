"""What of an adapter the runtime can compose onto a base. The rest is refused by name, never skipped. Torch-free."""

from collections.abc import Callable, Iterator, Mapping

from lora_cli.core.adapter import Adapter, LoraPair
from lora_cli.core.base_model import BaseModel
from lora_cli.core.experts import rewritten
from lora_cli.core.keys import PAIR_PARTS
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.targets import scales, targeted_in
from lora_cli.errors import FormatError, Refused

FEATURES: Mapping[str, tuple[Callable[[LoraConfig], bool], str]] = {
    "DoRA": (lambda config: config.use_dora, "use_dora"),
    "biases": (lambda config: config.bias != "none", "bias"),
    "biases on lora_B": (lambda config: config.lora_bias, "lora_bias"),
    "modules_to_save": (lambda config: bool(config.modules_to_save), "modules_to_save"),
    "fused experts and bare parameters": (lambda config: bool(config.target_parameters), "target_parameters"),
    "trained tokens": (lambda config: bool(config.trainable_token_indices), "trainable_token_indices"),
    "replicated layers": (lambda config: bool(config.layer_replication), "layer_replication"),
    "activated LoRA": (lambda config: bool(config.alora_invocation_tokens), "alora_invocation_tokens"),
    "QALoRA": (lambda config: config.use_qalora, "use_qalora"),
    "block-diagonal LoRA": (lambda config: bool(config.use_bdlora), "use_bdlora"),
    "Arrow routing": (lambda config: bool(config.arrow_config), "arrow_config"),
    "KaSA": (lambda config: bool(config.kasa_config), "kasa_config"),
    "MonteCLoRA": (lambda config: bool(config.monteclora_config), "monteclora_config"),
    "VeLoRA": (lambda config: bool(config.velora_config), "velora_config"),
}
"""Variants whose forward is more than ``W + s*B*A``: whether a config has one, and the field that says so."""

CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that rewrite the base's weights (PEFT, ``tuners/lora/layer.py``): the adapter alone is not enough."""

PART_NAMES = {
    "magnitude": "a DoRA magnitude",
    "bias": "a bias",
    "lora_bias": "a bias on lora_B",
    "saved": "a module saved whole (modules_to_save)",
    "base_layer": "the base's own weight in another shape",
    "trainable_tokens": "trained tokens",
    "diag": "a KaSA diagonal",
    "variant": "a LoRA variant's tensor",
    "unknown": "a tensor of no known kind",
}

COPY_PARTS = ("base_layer", "saved")

HINT = "validate says whether an engine can serve it; the runtime composes plain LoRA on linear and embedding layers"


def scalings(adapter: Adapter, base: BaseModel) -> dict[str, float]:
    """PEFT's scaling of every module of ``adapter``, by path, in the file's order. All of it can be composed.

    Raises:
        Refused: it uses a feature, holds a tensor, or names a module that the runtime does not compose.
        FormatError: its config or header cannot be read, or it holds no LoRA at all.
    """
    config = rewritten(_readable(adapter), base)
    for reason in _obstacles(adapter, config, base):
        raise Refused(f"{adapter.name}: {reason}", hint=HINT)
    if not adapter.pairs:
        raise FormatError("holds no LoRA weights", where=adapter.name)
    return {module: scale.scaling for module, scale in scales(config, adapter.pairs).items()}


def copied_modules(adapter: Adapter, base: BaseModel) -> dict[str, str]:
    """Tensors that may be mere copies of the base's own weight, by name: the module each is of.

    They have the shape of the base's. Whether they are equal to it, only the values say (``copies``).
    """
    found: dict[str, str] = {}
    for name, key in adapter.keys.items():
        module = base.modules.get(key.module)
        if module is None or key.part not in COPY_PARTS or key.param != "weight" or name not in adapter.tensors:
            continue
        shape = (module.d_out, module.d_in) if module.kind == "linear" else (module.d_in, module.d_out)
        if adapter.tensors[name].shape == shape:
            found[name] = key.module
    return found


def largest_rank(adapter: Adapter) -> int:
    """The largest rank that the tensors themselves have; 0 without any."""
    return max((pair.rank or 0 for pair in adapter.pairs.values()), default=0)


def _readable(adapter: Adapter) -> LoraConfig:
    for error in (adapter.config_error, adapter.weights_error):
        if error is not None:
            raise error
    if adapter.config is None:
        raise FormatError("has no adapter_config.json", where=adapter.name)
    return adapter.config


def _obstacles(adapter: Adapter, config: LoraConfig, base: BaseModel) -> Iterator[str]:
    """Each reason why not, as "…" after the adapter's name."""
    for feature, (present, field) in FEATURES.items():
        if present(config):
            yield f"{feature} cannot be composed by the runtime yet ({field} in its config)"
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(CHANGES_THE_BASE):
        yield f"it was trained on base weights changed by its initialisation (init_lora_weights {init!r})"
    copies = copied_modules(adapter, base)
    for name, key in adapter.keys.items():
        if key.part not in PAIR_PARTS and name not in copies:
            yield f"{name} is {PART_NAMES[key.part]}, which cannot be composed by the runtime yet"
    used = {info.name for pair in adapter.pairs.values() for info in (pair.a, pair.b) if info is not None}
    for name in adapter.tensors:
        if name not in used and name not in copies and adapter.keys[name].part in PAIR_PARTS:
            yield f"{name} names a factor that another tensor gives as well"
    for module, pair in adapter.pairs.items():
        yield from _module_obstacles(module, pair, base)
    yield from _target_obstacles(adapter, config, base)


def _target_obstacles(adapter: Adapter, config: LoraConfig, base: BaseModel) -> Iterator[str]:
    chosen = targeted_in(config, base)
    for module in adapter.pairs:
        if module not in chosen:
            yield f"it holds factors for {module}, which its config does not target: PEFT would ignore them"
    embeddings = [module for module in chosen if base.modules[module].kind == "embedding"]
    if config.ensure_weight_tying and base.tied_embeddings and embeddings:
        yield f"one LoRA tied across {embeddings[0]} and the output cannot be composed yet (ensure_weight_tying)"


def _module_obstacles(module: str, pair: LoraPair, base: BaseModel) -> Iterator[str]:
    target = base.modules.get(module)
    if target is None:
        yield f"{module} is no module of {base.name} that LoRA can be put on"
    elif (target.kind == "embedding") != pair.embedding:
        yield f"{module} is of kind {target.kind} in the base, and the adapter's factors are for another"
    for info in (pair.a, pair.b):
        if info is None:
            yield f"{module} has only one of its two factors"
        elif len(info.shape) != 2:
            yield f"{info.name} has {len(info.shape)} dimensions; the factors of a linear layer or an embedding have 2"
    if pair.a is not None and pair.b is not None and (pair.a.shape[:1], pair.b.shape[1:]) != ((pair.rank,),) * 2:
        yield f"{module}: A has rank {pair.a.shape[0]} and B has rank {pair.b.shape[-1]}"
