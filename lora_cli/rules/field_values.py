"""LC209: values of a config that are well-formed and that PEFT refuses, alone or beside one another."""

import re
from collections.abc import Collection, Iterator

from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.patterns import Endings
from lora_cli.core.targets import targeted_parameters
from lora_cli.core.text import cut, names
from lora_cli.errors import FormatError
from lora_cli.rules.case import Case
from lora_cli.rules.rule import rule
from lora_cli.rules.wording import shown

BIASES = ("none", "all", "lora_only")
TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
INITIALISATION = r"(?as)pissa(?:_niter_\d+)?|corda.*|(?i:olora|mica|gaussian)|loftq|eva|orthogonal|lora_ga|"
"""What ``init_lora_weights`` may say besides true and false (PEFT 0.21 ``tuners/lora/layer.py``)."""

VARIANTS = (
    "use_dora",
    "arrow_config",
    "use_bdlora",
    "alora_invocation_tokens",
    "velora_config",
    "monteclora_config",
    "kasa_config",
)
"""What makes another layer of LoRA's; a layer is one of these (``resolve_lora_variant``)."""

ONLY_ON_MODULES = ("lora_dropout", "lora_bias", "use_dora", "velora_config", "kasa_config")
"""What PEFT refuses on a bare parameter (``ParamWrapper``)."""

AS_SAVED = "restore the field as save_pretrained() wrote it"


@rule("LC209", "field-value", Severity.ERROR, needs=("config",))
def field_value(case: Case) -> Iterator[Problem]:
    """A field has a value that PEFT refuses, alone or beside another one.

    *Why is this bad?* PEFT raises when it reads the config or builds the layers; engines that do not look at the
    field serve the adapter all the same.

    *Fix*: restore the config that ``save_pretrained()`` wrote.
    """
    config = case.config
    said = (
        *_alone(config),
        *_initialisation(config, case.application.ranks.values()),
        *_beside(config),
        *_variants(case, config),
    )
    for field, message, hint in said:
        yield Problem(message, Location(config.file, field), hint)
    yield from _on_parameters(case, config)


Said = Iterator[tuple[str, str, str]]
"""Field, message and hint."""


def _alone(config: LoraConfig) -> Said:
    if config.lora_dropout > 1:
        yield "lora_dropout", f"lora_dropout is {config.lora_dropout}, and is at most 1", AS_SAVED
    if config.bias not in BIASES:
        yield "bias", f"bias is {shown(config.bias)}, and none of {', '.join(BIASES)}", AS_SAVED
    if config.task_type is not None and config.task_type not in TASKS:
        yield "task_type", f"task_type is {shown(config.task_type)}, and none of {', '.join(TASKS)}", AS_SAVED

    chosen = config.trainable_token_indices
    for indices in chosen.values() if chosen is not None and not isinstance(chosen, tuple) else (chosen or (),):
        if len(set(indices)) < len(indices) or min(indices, default=0) < 0:
            message = "trainable_token_indices names a token twice, or one below 0"
            yield "trainable_token_indices", message, AS_SAVED


def _initialisation(config: LoraConfig, ranks: Collection[int]) -> Said:
    """``init_lora_weights``: PEFT initialises a layer before it loads the weights, and may fail there already."""
    field, said = "init_lora_weights", config.init_lora_weights
    if isinstance(said, bool):
        return
    if not re.fullmatch(INITIALISATION, said):
        yield field, f"init_lora_weights is {shown(said)}, which PEFT does not know", AS_SAVED
    elif said.startswith("corda"):
        asks = f"init_lora_weights is {shown(said)}: PEFT asks for what preprocess_corda measured before it loads it"
        yield field, asks, "save it with path_initial_model_for_weight_conversion, as plain LoRA"
    elif said == "loftq" and not {"loftq_bits", "loftq_iter"} <= (config.loftq_config or {}).keys():
        yield field, 'init_lora_weights is "loftq", and loftq_config does not say loftq_bits and loftq_iter', AS_SAVED
    elif said == "orthogonal" and any(rank % 2 for rank in ranks):
        yield field, 'init_lora_weights is "orthogonal": PEFT refuses an odd rank with it', "set it to true"
    if said and config.lora_bias:
        yield "lora_bias", f"lora_bias is true, and init_lora_weights {shown(said)}: PEFT refuses both", AS_SAVED


def _beside(config: LoraConfig) -> Said:
    for field in ("layers_to_transform", "layers_pattern"):
        if isinstance(config.target_modules, str) and getattr(config, field) is not None:
            message = f"{field} is given, and target_modules is a string: PEFT takes one or the other"
            yield field, message, "choose the layers in the regular expression"
    if config.layers_pattern and config.layers_to_transform is None and "layers_to_transform" not in config.mistyped:
        message = "layers_pattern is given without layers_to_transform: PEFT refuses it"
        yield "layers_pattern", message, "name the layers, or leave the pattern out"
    if config.use_dora and config.lora_bias:
        yield "lora_bias", "use_dora and lora_bias are true: PEFT refuses both", AS_SAVED
    if config.use_dora and config.megatron_config:
        yield "megatron_config", "use_dora is true, and there is a megatron_config: PEFT refuses both", AS_SAVED


def _variants(case: Case, config: LoraConfig) -> Said:
    # An empty object counts, but for the empty list of aLoRA's.
    chosen = [field for field in VARIANTS if getattr(config, field) not in (None, False, ())]
    if len(chosen) > 1:
        yield chosen[1], f"{names(chosen)} are set: PEFT refuses them together", AS_SAVED
    if "arrow_config" in chosen:
        alone = "there is an arrow_config: PEFT loads such a router with create_arrow_model() and its adapters only"
        yield "arrow_config", alone, "serve the adapters that it chooses from"
    embeddings = [pair.module for pair in case.adapter.pairs.values() if pair.embedding]
    for field in (*chosen, *(["lora_bias"] if config.lora_bias else [])):
        if embeddings and field != "use_dora":
            yield field, f"{field} is set: PEFT refuses it on an embedding ({cut(embeddings[0])})", AS_SAVED
    if config.use_bdlora is not None:
        from lora_cli.core.factors import divisors

        try:
            divided = divisors(config)
            for module in case.application.adapter.pairs:
                divided(module)
        except FormatError as error:
            yield "use_bdlora", f"use_bdlora {cut(error.reason)}", AS_SAVED
        modules = case.base.modules if case.base is not None else {}
        if any(modules[module].kind == "conv1d" for module in case.application.found if module in modules):
            yield "use_bdlora", "use_bdlora is set, and the base has Conv1D there: PEFT fails on it", AS_SAVED


def _on_parameters(case: Case, config: LoraConfig) -> Iterator[Problem]:
    """By the config as PEFT has it on the base, where experts may have become parameters."""
    loaded = case.application.adapter.config or config
    if not loaded.target_parameters:
        return
    what = "target_parameters" if config.target_parameters else "experts that the base has fused"
    for field in ONLY_ON_MODULES:
        if getattr(config, field) not in (None, 0, False):  # an empty object counts
            hint = f"the weights do not depend on it: set {field} to 0" if field == "lora_dropout" else "leave it out"
            message = f"{field} is {shown(getattr(config, field))}: PEFT refuses it on {what}"
            yield Problem(message, Location(config.file, field), hint)
    if case.base is None or not isinstance(loaded.target_modules, tuple):
        return
    own = [
        path.removesuffix(".weight")
        for path in targeted_parameters(loaded, (f"{one}.weight" for one in case.base.modules))
    ]
    named = Endings(loaded.target_modules)
    both = [path for path in own if path in named]
    if both:
        message = f"target_modules and target_parameters both name {names(both)}: PEFT refuses it"
        yield Problem(message, Location(config.file, "target_parameters"), "name it in one of the two")
