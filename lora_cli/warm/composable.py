"""The parts of an adapter that the runtime can compose onto a base; others are refused by name. Torch-free.

An adapter comes here judged: its files can be read, its pairs are whole, and its config targets them.
"""

from collections.abc import Callable, Iterator, Mapping

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import PAIR_PARTS, Key
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import Refused
from lora_cli.peft.experts import rewrite_config
from lora_cli.peft.targets import scales, targeted_in, timed, wrapped_parameters

ALTERING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` with which PEFT changes the base's weights when it loads the adapter."""

FULL_MODEL: Mapping[str, str] = {
    "use_dora": "DoRA",
    "bias": "biases",
    "lora_bias": "biases on lora_B",
    "modules_to_save": "modules_to_save",
    "target_parameters": "fused experts and bare parameters",
}
"""Variants that need the full model, with its own weights, by the field that turns them on."""

OTHERS = (
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
"""Fields of variants whose forward is not implemented here: no engine serves them either."""

COPY_PARTS = ("base_layer", "saved")

HINT = "lora-cli validate checks if an engine can serve it; this supports plain LoRA on linear and embedding layers"
FULL_MODEL_HINT = "use --forward model, which supports it"


def scalings(adapter: Adapter, base: BaseModel, *, full_model: bool = False) -> dict[str, float]:
    """PEFT's scaling of every module of ``adapter`` with factors for a slot, by path, in the file's order.

    All of it can be composed, with ``full_model`` onto a whole model.

    Raises:
        Refused: it uses a feature, holds a tensor, or names a module that the runtime does not compose.
    """
    config = config_on(adapter, base)
    if any(info.file.endswith(".bin") for info in adapter.tensors.values()):
        hint = "lora-cli repair converts them to safetensors"
        raise Refused(f"{adapter.name}: its weights are in a pickle", hint=hint)
    for reason, hint in _obstacles(adapter, config, base, full_model=full_model):
        raise Refused(f"{adapter.name}: {reason}", hint=hint)
    wrapped = wrapped_parameters(config, base.parameters)
    modules = [module for module in adapter.pairs if module not in wrapped]
    return {module: scale.scaling for module, scale in scales(config, modules).items()}


def config_on(adapter: Adapter, base: BaseModel) -> LoraConfig:
    """The adapter's config as PEFT has it on ``base``."""
    assert adapter.config is not None
    return rewrite_config(adapter.config, base)


def extra_tensors(config: LoraConfig) -> Callable[[Key], bool]:
    """Whether a tensor is an extra weight: a magnitude, a bias on lora_B, or in place of a parameter of the base.

    What is in place of one is a trained bias, or a module of modules_to_save. What is returned raises ``FormatError``
    if there are more names than can be compared in time.
    """
    saved = [f".{name}." for name in config.modules_to_save or ()]

    def is_extra(key: Key) -> bool:
        if key.part in {"magnitude", "lora_bias"}:
            return True
        if key.part in {"bias", *COPY_PARTS} and key.param == "bias" and config.bias != "none":
            return True
        with timed(f"{config.file}: modules_to_save"):
            return key.part == "saved" and any(name in f".{key.module}." for name in saved)

    return is_extra


def copied_modules(adapter: Adapter, base: BaseModel) -> dict[str, str]:
    """Tensors that may be mere copies of the base's own weight, by name: the module each is of.

    They have the shape of the base's. Whether they are equal to it, only the values say.
    """
    found: dict[str, str] = {}
    is_extra = extra_tensors(config_on(adapter, base))
    for name, key in adapter.keys.items():
        module = base.modules.get(key.module)
        if module is None or key.part not in COPY_PARTS or key.param != "weight" or is_extra(key):
            continue
        shape = (module.d_out, module.d_in) if module.kind == "linear" else (module.d_in, module.d_out)
        if adapter.tensors[name].shape == shape:
            found[name] = key.module
    return found


def _obstacles(adapter: Adapter, config: LoraConfig, base: BaseModel, *, full_model: bool) -> Iterator[tuple[str, str]]:
    """Each reason why not, as "…" after the adapter's name, and what to do about it."""
    for name in OTHERS:
        if getattr(config, name):
            yield f"{name} of its config cannot be composed", HINT
    for name, feature in FULL_MODEL.items():
        if not full_model and (config.bias != "none" if name == "bias" else getattr(config, name)):
            yield f"{feature} cannot be composed module by module ({name} in its config)", FULL_MODEL_HINT
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(ALTERING):
        yield f"it was trained on base weights changed by its initialisation (init_lora_weights {init!r})", HINT
    copies, is_extra = copied_modules(adapter, base), extra_tensors(config)
    for name, key in adapter.keys.items():
        if key.part not in PAIR_PARTS and name not in copies and not (full_model and is_extra(key)):
            yield f"{name} cannot be composed: it is not a LoRA factor ({key.part})", HINT
    wrapped = wrapped_parameters(config, base.parameters) if full_model else {}
    for module, pair in adapter.pairs.items():
        target = base.modules.get(module)
        if target is None and module not in wrapped:
            yield f"{module} is not a module of {base.name} that supports LoRA", HINT
        elif target is not None and (target.kind == "embedding") != pair.embedding:
            yield f"{module} is of kind {target.kind} in the base, but the adapter's factors are for another", HINT
    if config.ensure_weight_tying and base.tied_embeddings:
        tied = [module for module in targeted_in(config, base) if base.modules[module].kind == "embedding"]
        if tied or config.modules_to_save:
            which = tied[0] if tied else "modules_to_save"
            yield f"one LoRA tied across {which} and the output cannot be composed yet (ensure_weight_tying)", HINT
