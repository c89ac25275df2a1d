"""LC2xx: ``adapter_config.json`` alone, and the modules that its patterns match."""

import math
import re
from collections.abc import Callable, Collection, Iterator
from itertools import chain

from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import WRAPPER, last_name
from lora_cli.errors import FormatError
from lora_cli.finding import Problem, Severity
from lora_cli.peft.targets import HEADS, Endings, endings, matching_keys, targeted_parameters
from lora_cli.rules.rule import Case, NotChecked, grouped, rule, shown
from lora_cli.text import counted, cut, names

OLD_FIELDS = frozenset({"enable_lora", "merge_weights"})
"""Fields of PEFT 0.2, which have no effect if they are null or false."""

RANK_AND_ALPHA = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
TARGETS = ("target_modules", "target_parameters")
BIASES = ("none", "all", "lora_only")
TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
INITIALISATION = r"(?as)pissa(?:_niter_\d+)?|corda.*|(?i:olora|mica|gaussian)|loftq|eva|orthogonal|lora_ga|"
"""The values of ``init_lora_weights`` other than true and false (PEFT 0.21 ``tuners/lora/layer.py``)."""

VARIANTS = (
    "use_dora",
    "arrow_config",
    "use_bdlora",
    "alora_invocation_tokens",
    "velora_config",
    "monteclora_config",
    "kasa_config",
)
"""Fields that select a variant of LoRA; only one can be set (``resolve_lora_variant``)."""

ONLY_ON_MODULES = ("lora_dropout", "lora_bias", "use_dora", "velora_config", "kasa_config")
"""Fields that PEFT refuses on a bare parameter (``ParamWrapper``)."""

LEAST = 1e-9
"""Ranks and alphas below it count as 0."""

AS_SAVED = "restore the field as save_pretrained() wrote it"

PATTERNS = ("rank_pattern", "alpha_pattern")

MOST_PARAMETERS = 16
"""The number of last names of ``target_parameters`` up to which patterns are matched; experts have four."""

TOO_MANY = f"target_parameters has more than {MOST_PARAMETERS} last names: patterns are not checked on them"


@rule("LC201", "not-lora", Severity.ERROR)
def not_lora(case: Case) -> Iterator[Problem]:
    """The config is not that of a LoRA adapter: ``peft_type`` is missing or names another method.

    *Why is this bad?* PEFT refuses a config without ``peft_type`` and builds another method's layers for another
    type; vLLM does not read the field and loads any tensors that happen to have LoRA names.

    *Fix*: set ``"peft_type": "LORA"`` if it is one; adapters of other methods cannot be served as LoRA.
    """
    config, foreign = case.adapter.config, case.adapter.foreign
    if config is None or "peft_type" in config.mistyped or config.peft_type == "LORA":
        return
    if foreign is not None:
        if foreign.file == config.file:
            message = f"peft_type is {shown(config.peft_type)}: this is {foreign.format.title}, not of LoRA"
            if config.peft_type is None:
                message = f"peft_type is missing: this is {foreign.format.title}, not a PEFT config"
            yield Problem(message, case.in_config("peft_type"), foreign.format.advice)
        return
    if config.peft_type is None:
        yield Problem(
            "peft_type is missing: PEFT refuses the config, and the method is unknown",
            case.in_config("peft_type"),
            'add "peft_type": "LORA" if this is a LoRA adapter',
        )
        return
    close = config.peft_type.strip().upper() == "LORA"
    yield Problem(
        f'peft_type is {shown(config.peft_type)}, not "LORA"',
        case.in_config("peft_type"),
        'write it in capitals: "LORA"' if close else "this is another PEFT method; only LoRA adapters can be served",
    )


@rule("LC202", "rank-invalid", Severity.ERROR, needs=("config",))
def rank_invalid(case: Case) -> Iterator[Problem]:
    """``r``, or a rank in ``rank_pattern``, is not a positive integer, or ``r`` is missing.

    *Why is this bad?* The scaling is ``lora_alpha / r``: with ``"8"`` or 0 loading fails. Without ``r`` PEFT silently
    uses 8 and vLLM refuses the adapter.

    *Fix*: write the rank that the tensors have.
    """
    hint = "write the rank of the tensors as a number"
    yield from _number_problems(
        case, ("r", "rank_pattern", "a rank"), hint, lambda whose, _: f"; {whose} is at least 1"
    )


@rule("LC203", "alpha-invalid", Severity.ERROR, needs=("config",))
def alpha_invalid(case: Case) -> Iterator[Problem]:
    """``lora_alpha``, or one in ``alpha_pattern``, is not a positive number or next to 0, or ``lora_alpha`` is missing.

    *Why is this bad?* It scales the whole adapter: 0 disables it, NaN corrupts every answer, a negative value
    reverses the training. Without it PEFT silently uses 8 and vLLM refuses the adapter.

    *Fix*: write the ``lora_alpha`` that the adapter was trained with.
    """
    hint = "write the lora_alpha that the adapter was trained with, as a number"
    yield from _number_problems(case, ("lora_alpha", "alpha_pattern", "an alpha"), hint, _effect)


def disabling_keys(case: Case) -> list[str]:
    """The keys of ``alpha_pattern`` with a 0, if other modules have another alpha: then it was trained with that."""
    if not any(scale.lora_alpha >= LEAST for scale in case.application.scales.values()):
        return []
    return [key for key, alpha in case.config.alpha_pattern.items() if 0 <= alpha < LEAST]


def _effect(_: str, alpha: float) -> str:
    return ": the adapter is inverted" if alpha < 0 else ": the adapter does nothing"


def _number_problems(
    case: Case, fields: tuple[str, str, str], hint: str, effect: Callable[[str, float], str]
) -> Iterator[Problem]:
    """Numbers of a field and its pattern that have the wrong type, are missing, or are not above 0.

    ``fields`` are the field, its pattern, and a noun for a value; ``effect`` gets the subject and the number.
    """
    config, (name, pattern, noun) = case.config, fields
    for field in (name, pattern):
        if field in config.mistyped:
            yield Problem(f"{field} {_type_message(field, config)}", case.in_config(field), hint)
    value = getattr(config, name)
    if name not in config.given:
        yield Problem(f"{name} is missing: PEFT silently uses 8, vLLM refuses the adapter", case.in_config(name), hint)
    elif value < LEAST:
        yield Problem(f"{name} is {value}{effect(noun, value)}", case.in_config(name), hint)
    kept = disabling_keys(case) if pattern == "alpha_pattern" else ()
    low = ((key, one) for key, one in getattr(config, pattern).items() if one < LEAST and key not in kept)
    messages = ((f"{noun} in {pattern} is {one}{effect('it', one)}", key) for key, one in low)
    yield from grouped(messages, config.file, "key", hint)


def _type_message(field: str, config: LoraConfig) -> str:
    value = config.mistyped[field]
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which is not a number"
    return cut(config.errors[field].reason)


@rule("LC204", "field-type", Severity.ERROR, needs=("config",))
def field_type(case: Case) -> Iterator[Problem]:
    """A field has a JSON type that PEFT does not support, like ``"use_rslora": "false"``.

    *Why is this bad?* PEFT does not check types: the string ``"false"`` is true, and changes the scaling of every
    module. If it fails at all, it fails later.

    *Fix*: write booleans and numbers without quotes, lists as lists.
    """
    config = case.config
    for field in config.mistyped:
        if field in RANK_AND_ALPHA:
            continue
        yield Problem(
            f"{field} {_type_message(field, config)}", case.in_config(field), _type_hint(config.mistyped[field])
        )


def _type_hint(value: object) -> str:
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return f"write {value.lower()} without quotes; PEFT treats any non-empty string as true"
    return "write the value with the type in PEFT's LoraConfig"


@rule("LC205", "targets-missing", Severity.ERROR, needs=("config",))
def targets_missing(case: Case) -> Iterator[Problem]:
    """The config has no target modules: ``target_modules`` is missing, null or empty.

    *Why is this bad?* PEFT then guesses modules from the base's family, which may differ from the trained ones;
    vLLM refuses a config without the field, SGLang one with null.

    *Fix*: list the modules that the tensors are for.
    """
    config = case.config
    if any(field in config.mistyped for field in TARGETS):
        return
    if config.target_modules or config.target_parameters or config.trainable_token_indices:
        return
    modules = sorted({last_name(pair.module) for pair in case.adapter.pairs.values()})
    value = "null" if config.target_modules is None else "empty"
    state = f"is {value}" if "target_modules" in config.given else "is missing"
    yield Problem(
        f"target_modules {state}: PEFT guesses the modules from the base's family, engines refuse it",
        case.in_config("target_modules"),
        f"the tensors are for {names(modules, 8)}: list these" if modules else "list the modules that were trained",
    )


@rule("LC206", "duplicate-field", Severity.ERROR, needs=("config",))
def duplicate_field(case: Case) -> Iterator[Problem]:
    """A key appears twice in the JSON.

    *Why is this bad?* Python uses the last one and other parsers the first, so two programs serve different adapters.

    *Fix*: keep the intended one.
    """
    config = case.config
    messages = (("a key appears twice; which value is used depends on the parser", key) for key in config.duplicates)
    yield from grouped(messages, config.file, "key", "keep the intended value")


@rule("LC207", "unknown-field", Severity.WARNING, needs=("config",))
def unknown_field(case: Case) -> Iterator[Problem]:
    """The config has fields that PEFT does not know.

    *Why is this bad?* PEFT drops them with a log line. If a newer PEFT gave them a meaning, or one is a misspelt
    name, the adapter is not served as it was trained.

    *Fix*: correct the name, or upgrade PEFT, or remove the field.
    """
    config = case.config
    if config.unknown.get("enable_lora"):
        yield Problem(
            f"enable_lora is {shown(config.unknown['enable_lora'])}: only PEFT 0.2 supports LoRA on parts of a fused "
            "layer",
            case.in_config("enable_lora"),
            "load it with PEFT 0.2 and merge it into the base, or train it again",
        )
    fields = sorted(name for name, value in config.unknown.items() if name not in OLD_FIELDS or value)
    fields = [name for name in fields if name != "enable_lora"]
    if fields:
        yield Problem(
            f"PEFT ignores {counted(len(fields), 'unknown field')}: {names(fields, 5)}",
            case.in_config(cut(fields[0])),
            "correct a misspelt name; if another version of PEFT wrote it, check what it changes",
        )


@rule("LC208", "pattern-invalid", Severity.ERROR, needs=("config",))
def pattern_invalid(case: Case) -> Iterator[Problem]:
    """A pattern in the config is not a regular expression, or takes too long to match.

    *Why is this bad?* PEFT passes it to Python's ``re``, which raises an error or hangs the process that loads it.

    *Fix*: list the modules by name, or correct the pattern.
    """
    config = case.config
    for error in dict.fromkeys(case.application.errors):
        field = error.where.removeprefix(f"{config.file}: ")
        yield Problem(cut(error.reason), case.in_config(cut(field)), error.hint or "list the modules by name")


@rule("LC209", "field-value", Severity.ERROR, needs=("config",))
def field_value(case: Case) -> Iterator[Problem]:
    """A field has a value that PEFT refuses, alone or combined with another field.

    *Why is this bad?* PEFT raises when it reads the config or builds the layers; engines that ignore the
    field still serve the adapter.

    *Fix*: restore the config that ``save_pretrained()`` wrote.
    """
    config = case.config
    errors = (
        *_single_field_errors(config),
        *_initialisation_errors(config, case.application.ranks.values()),
        *_field_combination_errors(config),
        *_variant_errors(case, config),
    )
    for field, message, hint in errors:
        yield Problem(message, case.in_config(field), hint)
    yield from _parameter_problems(case, config)


FieldErrors = Iterator[tuple[str, str, str]]
"""Field, message and hint."""


def _single_field_errors(config: LoraConfig) -> FieldErrors:
    if config.lora_dropout > 1:
        yield "lora_dropout", f"lora_dropout is {config.lora_dropout}, but must be at most 1", AS_SAVED
    if config.bias not in BIASES:
        yield "bias", f"bias is {shown(config.bias)}, not one of {', '.join(BIASES)}", AS_SAVED
    if config.task_type is not None and config.task_type not in TASKS:
        yield "task_type", f"task_type is {shown(config.task_type)}, not one of {', '.join(TASKS)}", AS_SAVED

    chosen = config.trainable_token_indices
    for indices in chosen.values() if chosen is not None and not isinstance(chosen, tuple) else (chosen or (),):
        if len(set(indices)) < len(indices) or min(indices, default=0) < 0:
            message = "trainable_token_indices lists a token twice, or one below 0"
            yield "trainable_token_indices", message, AS_SAVED


def _initialisation_errors(config: LoraConfig, ranks: Collection[int]) -> FieldErrors:
    """``init_lora_weights``: PEFT initialises a layer before it loads the weights, which may fail."""
    field, method = "init_lora_weights", config.init_lora_weights
    if isinstance(method, bool):
        return
    if not re.fullmatch(INITIALISATION, method):
        yield field, f"init_lora_weights is {shown(method)}, which is unknown to PEFT", AS_SAVED
    elif method.startswith("corda"):
        asks = f"init_lora_weights is {shown(method)}: PEFT needs the results of preprocess_corda to load it"
        yield field, asks, "save it with path_initial_model_for_weight_conversion, as plain LoRA"
    elif method == "loftq" and not {"loftq_bits", "loftq_iter"} <= (config.loftq_config or {}).keys():
        yield field, 'init_lora_weights is "loftq", but loftq_config has no loftq_bits and loftq_iter', AS_SAVED
    elif method == "orthogonal" and any(rank % 2 for rank in ranks):
        yield field, 'init_lora_weights is "orthogonal": PEFT refuses an odd rank with it', "set it to true"
    if method and config.lora_bias:
        yield "lora_bias", f"lora_bias is true, and init_lora_weights {shown(method)}: PEFT refuses both", AS_SAVED


def _field_combination_errors(config: LoraConfig) -> FieldErrors:
    for field in ("layers_to_transform", "layers_pattern"):
        if isinstance(config.target_modules, str) and getattr(config, field) is not None:
            message = f"{field} is set, and target_modules is a string: PEFT accepts only one of them"
            yield field, message, "select the layers in the regular expression"
    if config.layers_pattern and config.layers_to_transform is None and "layers_to_transform" not in config.mistyped:
        message = "layers_pattern is set without layers_to_transform: PEFT refuses it"
        yield "layers_pattern", message, "list the layers, or remove the pattern"
    if config.use_dora and config.lora_bias:
        yield "lora_bias", "use_dora and lora_bias are true: PEFT refuses both", AS_SAVED
    if config.use_dora and config.megatron_config:
        yield "megatron_config", "use_dora is true, and there is a megatron_config: PEFT refuses both", AS_SAVED


def _variant_errors(case: Case, config: LoraConfig) -> FieldErrors:
    # An empty object counts, but for the empty list of aLoRA's.
    chosen = [field for field in VARIANTS if getattr(config, field) not in (None, False, ())]
    if len(chosen) > 1:
        yield chosen[1], f"{names(chosen)} are set: PEFT refuses them together", AS_SAVED
    if "arrow_config" in chosen:
        alone = "arrow_config is set: PEFT loads this router only with create_arrow_model() and its adapters"
        yield "arrow_config", alone, "serve the adapters that it routes to"
    embeddings = [pair.module for pair in case.adapter.pairs.values() if pair.embedding]
    for field in (*chosen, *(["lora_bias"] if config.lora_bias else [])):
        if embeddings and field != "use_dora":
            yield field, f"{field} is set: PEFT refuses it on an embedding ({cut(embeddings[0])})", AS_SAVED
    if config.use_bdlora == {}:
        yield "use_bdlora", "use_bdlora names a targeted module neither for A nor for B: PEFT refuses it", AS_SAVED


def _parameter_problems(case: Case, config: LoraConfig) -> Iterator[Problem]:
    """Fields that PEFT refuses on parameters, by the config as PEFT loads it on the base."""
    loaded = case.application.adapter.config or config
    if not loaded.target_parameters:
        return
    what = "target_parameters" if config.target_parameters else "the base's fused experts"
    for field in ONLY_ON_MODULES:
        if getattr(config, field) not in (None, 0, False):  # an empty object counts
            hint = f"the weights do not depend on it: set {field} to 0" if field == "lora_dropout" else "remove it"
            message = f"{field} is {shown(getattr(config, field))}: PEFT refuses it on {what}"
            yield Problem(message, case.in_config(field), hint)
    if case.base is None or not isinstance(loaded.target_modules, tuple):
        return
    own = [
        path.removesuffix(".weight")
        for path in targeted_parameters(loaded, (f"{one}.weight" for one in case.base.modules))
    ]
    named = Endings(loaded.target_modules)
    both = [path for path in own if path in named]
    if both:
        message = f"target_modules and target_parameters both list {names(both)}: PEFT refuses it"
        yield Problem(message, case.in_config("target_parameters"), "list it in only one of them")


def _pattern_paths(case: Case) -> list[str] | None:
    """The paths that PEFT matches keys of patterns with: the adapter's modules and its parameters; None if too many."""
    config = case.config
    leaves = {last_name(name) for name in config.target_parameters or ()}
    if len(leaves) > MOST_PARAMETERS:
        return None
    modules = {module.removesuffix(WRAPPER) for module in case.adapter.pairs}
    return [*case.adapter.pairs, *(f"{module}.{leaf}" for module in sorted(modules) for leaf in sorted(leaves))]


@rule("LC210", "dead-pattern", Severity.WARNING, needs=("config", "weights"))
def dead_pattern(case: Case) -> Iterator[Problem | NotChecked]:
    """A name or pattern of the config matches nothing, or ``alpha_pattern`` has a 0 for some of the modules.

    *Why is this bad?* PEFT ignores a name without a match silently: an intended rank, alpha, target or exclusion is
    missing. Usually it is misspelt or from another base. Modules with an alpha of 0 change nothing, in training as in
    every engine that reads the pattern.

    *Fix*: correct it or remove it.
    """
    config = case.config
    paths, messages = _pattern_paths(case), []
    if paths is None:
        yield NotChecked(TOO_MANY)
    else:
        for field in (field for field in PATTERNS if field not in config.mistyped):
            messages += [(f"{field} matches no module of the adapter", key) for key in _dead_keys(config, field, paths)]
    messages += [(f"{field} matches no module of the base", name) for field, name in _dead_names(case)]
    messages += [("an alpha in alpha_pattern is 0: its modules do nothing", key) for key in disabling_keys(case)]
    yield from grouped(messages, config.file, "name", "correct the name or remove it")


def _dead_keys(config: LoraConfig, field: str, paths: list[str]) -> list[str]:
    """The keys of a pattern that match none of ``paths``; none if one is no pattern, or takes too long."""
    keys = getattr(config, field)
    try:
        matching = matching_keys(keys, paths, f"{config.file}: {field}") if keys else {}
    except FormatError:
        return []
    alive = {*paths, *chain.from_iterable(matching.values())}
    return [key for key in keys if key not in alive]


def _dead_names(case: Case) -> Iterator[tuple[str, str]]:
    """Names in lists that match no module of the base, and layers beyond its last: (field, name)."""
    # The config as PEFT loads it: it rewrites the names of experts that the base has fused.
    config, base = case.application.adapter.config, case.base
    assert config is not None
    if base is None or case.application.absent or case.application.beyond:
        # Other rules report that the base is another one.
        return
    heads = HEADS.get(config.task_type or "", ())
    called = {ending for module in base.modules for ending in endings(module)}
    for field in ("target_modules", "exclude_modules"):
        listed = getattr(config, field)
        if isinstance(listed, str) or listed is None or field in config.mistyped:
            continue
        for name in listed:
            if name.partition(".")[0] not in heads and name not in called:
                yield field, name
    layers = config.layers_to_transform
    chosen = (layers,) if isinstance(layers, int) else layers or ()
    if not config.layer_replication:
        yield from (("layers_to_transform", f"layer {layer}") for layer in chosen if layer >= base.num_layers)


@rule("LC211", "alpha-order", Severity.WARNING, needs=("config", "weights"))
def alpha_order(case: Case) -> Iterator[Problem | NotChecked]:
    """Several keys of ``alpha_pattern`` match one module with different values.

    *Why is this bad?* PEFT uses the first, and sorts the keys when it saves: the order in training is lost, so the
    module may be scaled by a different alpha than in training. (Ranks are known from the tensors.)

    *Fix*: write keys that do not overlap.
    """
    config = case.config
    pattern = config.alpha_pattern if "alpha_pattern" not in config.mistyped else {}
    paths, messages = _pattern_paths(case) if len(set(pattern.values())) > 1 else [], []
    if paths is None:
        yield NotChecked(TOO_MANY)
    try:
        matching = matching_keys(pattern, paths or (), f"{config.file}: alpha_pattern")
    except FormatError:
        return
    for path, matched in matching.items():
        if len({pattern[key] for key in matched}) > 1:
            few = names([f"{cut(key)} ({shown(pattern[key])})" for key in matched])
            messages.append((f"{len(matched)} keys of alpha_pattern match, and PEFT uses the first: {few}", path))
    yield from (
        Problem(problem.message, case.in_config("alpha_pattern"), problem.hint)
        for problem in grouped(messages, config.file, "module", "write keys that do not overlap")
    )
