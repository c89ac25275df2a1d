"""LC2xx: ``adapter_config.json`` alone, and the modules that its patterns match."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any

from lora_cli.adapter.config import LoraConfig, raw_value
from lora_cli.adapter.names import WRAPPER, last_name
from lora_cli.checks.case import Case
from lora_cli.checks.check import OK, REJECTS, WRONG, NotChecked, Problems, check, grouped
from lora_cli.engines.peft import method_outcome
from lora_cli.errors import FormatError
from lora_cli.finding import Effect, Effects, Problem, Severity
from lora_cli.parse import LARGEST
from lora_cli.peft.targets import HEADS, Endings, endings, matching_keys, targeted_parameters
from lora_cli.text import counted, cut, names, shown

OLD_FIELDS = frozenset({"enable_lora", "merge_weights"})
"""Fields of PEFT 0.2, which have no effect if they are null or false."""

RANK_AND_ALPHA = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
TARGETS = ("target_modules", "target_parameters")
BIASES = ("none", "all", "lora_only")
TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
INIT = "init_lora_weights"
INITIALISATION = r"(?as)pissa(?:_niter_\d+)?|corda.*|(?i:olora|mica|gaussian)|loftq|eva|orthogonal|lora_ga|"
"""The values of ``init_lora_weights`` other than true and false (PEFT 0.21 ``tuners/lora/layer.py``)."""

CHANGES_BASE = r"(?is)(?:pissa|olora|corda|loftq).*"
"""Those with which PEFT changes the base's weights, too."""

KNOWN_TO_VLLM = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Those that vLLM has in its list, and that leave the base as it was."""

VARIANTS = (
    *("use_dora", "arrow_config", "use_bdlora", "alora_invocation_tokens"),
    *("velora_config", "monteclora_config", "kasa_config"),
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

SINCE_0_32: Effect = {"0.31": OK, "": REJECTS}
"""vLLM reads the patterns, and refuses what it does not know, since 0.32."""


@check("LC201", "not-lora", peft=REJECTS, vllm=OK,
       hint="this is another PEFT method; only LoRA adapters can be served",
       evidence={"vllm": "lora/peft_helper.py (run)", "sglang": "lora/lora.py (read)"})  # fmt: skip
def not_lora(case: Case) -> Problems:
    """The config is not that of a LoRA adapter: ``peft_type`` is missing or names another method.

    PEFT refuses a config without ``peft_type`` and builds another method's layers for another type; vLLM does not read
    the field and loads any tensors that happen to have LoRA names.
    """
    config, foreign, has_factors = case.adapter.config, case.adapter.foreign, bool(case.adapter.pairs)
    if config is None or "peft_type" in config.mistyped or config.peft_type == "LORA":
        return
    peft: Effect | None = None
    if has_factors:
        peft = method_outcome(config.peft_type, case.base.model_type if case.base is not None else "")
    if peft is None:
        peft = WRONG if foreign is not None and case.adapter.weight_files else REJECTS
    effects: Effects = {"peft": peft, "vllm": REJECTS if foreign is not None and not has_factors else OK}
    message, hint = f'peft_type is {shown(config.peft_type)}, not "LORA"', ""
    if foreign is not None and foreign.file != config.file:
        return
    if foreign is not None:
        message = f"peft_type is {shown(config.peft_type)}: this is {foreign.format.title}, not of LoRA"
        if config.peft_type is None:
            message = f"peft_type is missing: this is {foreign.format.title}, not a PEFT config"
        hint = foreign.format.advice
    elif config.peft_type is None:
        message = "peft_type is missing: PEFT refuses the config, and the method is unknown"
        hint = 'add "peft_type": "LORA" if this is a LoRA adapter'
    elif config.peft_type.strip().upper() == "LORA":
        hint = 'write it in capitals: "LORA"'
    yield Problem(message, case.in_config("peft_type"), hint, effects)


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be divided: an integer may be too large for a float."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= LARGEST
    return isinstance(value, float)


def _used(case: Case, pattern: Mapping[str, Any]) -> list[Any]:
    """The values of a pattern whose keys are the first to match a module of the adapter; all, if that is not known."""
    try:
        matching = matching_keys(pattern, case.adapter.pairs, case.config.file).values()
    except FormatError:
        return list(pattern.values())
    return [pattern[key] for key in {keys[0] for keys in matching if keys}]


@check("LC202", "rank-invalid", "config", peft=REJECTS, hint="write the rank of the tensors as a number",
       evidence={"peft": "tuners/lora/layer.py (run)", "vllm": "lora/peft_helper.py (run)"})  # fmt: skip
def rank_invalid(case: Case) -> Problems:
    """``r``, or a rank in ``rank_pattern``, is not a positive integer, or ``r`` is missing.

    The scaling is ``lora_alpha / r``: with ``"8"`` or 0 loading fails. Without ``r`` PEFT silently uses 8 and engines
    refuse the adapter. PEFT reads only the patterns that a module matches; vLLM checks all of them.
    """
    r, pattern = raw_value(case.config, "r"), raw_value(case.config, "rank_pattern")

    def is_none(value: Any) -> bool:
        return value is not True and not (_is_number(value) and isinstance(value, int) and value > 0)

    fine: Effects = {"peft": OK, "vllm": OK}
    of_r = fine
    if "r" not in case.config.given:
        of_r = {"peft": OK}
    elif r is not True and not (_is_number(r) and 0 < r < math.inf):
        of_r = {}
    elif r is True or (isinstance(r, float) and not r.is_integer()):
        of_r = {"vllm": WRONG}
    of_pattern = [fine]
    if not isinstance(pattern, Mapping):
        of_pattern = [{"vllm": SINCE_0_32 if pattern else OK}]
    elif any(is_none(value) or value is True for value in pattern.values()):
        used = _used(case, pattern)
        of_pattern += [{"peft": OK, "vllm": SINCE_0_32}] if any(map(is_none, pattern.values())) else []
        of_pattern += [{"vllm": OK}] if any(is_none(value) or value is True for value in used) else []
        of_pattern += [{"vllm": {"0.31": OK, "": WRONG}}] if True in used else []
    for problem in _numbers(case, "r", "rank_pattern", "a rank"):
        for effects in [of_r] if problem.at.field == "r" else of_pattern:
            yield Problem(problem.message, problem.at, effects=effects)


@check("LC203", "alpha-invalid", "config", peft=WRONG, vllm=REJECTS, sglang=REJECTS,
       hint="write the lora_alpha that the adapter was trained with, as a number",
       evidence={"peft": "tuners/lora/layer.py (run)", "vllm": "lora/peft_helper.py (run)",
                 "sglang": "lora/lora_config.py (reasoned)"})  # fmt: skip
def alpha_invalid(case: Case) -> Problems:
    """``lora_alpha``, or one in ``alpha_pattern``, is not a positive number or next to 0, or ``lora_alpha`` is missing.

    It scales the whole adapter: 0 disables it, NaN corrupts every answer, a negative value reverses the training.
    Without it PEFT silently uses 8 and engines refuse the adapter.
    """
    alpha, pattern = raw_value(case.config, "lora_alpha"), raw_value(case.config, "alpha_pattern")
    keeps_zero = bool(disabling_keys(case))

    def is_harmful(value: Any) -> bool:
        return isinstance(value, bool) or (_is_number(value) and not (value >= LEAST and math.isfinite(value)))

    of_alpha: Effects = {"vllm": OK, "sglang": WRONG}
    if "lora_alpha" not in case.config.given:
        of_alpha = {}
    elif not (_is_number(alpha) or isinstance(alpha, bool)):
        of_alpha = {"peft": REJECTS}
    elif is_harmful(alpha):
        of_alpha = {"vllm": WRONG, "sglang": WRONG}
    of_pattern: list[Effects] = [{"vllm": OK, "sglang": WRONG}]
    if not isinstance(pattern, Mapping):
        of_pattern = [{"peft": REJECTS, "vllm": SINCE_0_32 if pattern else OK, "sglang": WRONG}]
    else:
        for value in _used(case, pattern):
            if value is None:
                of_pattern.append({"peft": REJECTS, "vllm": OK, "sglang": WRONG})
            elif not (_is_number(value) or isinstance(value, bool)):
                of_pattern.append({"peft": REJECTS, "vllm": SINCE_0_32, "sglang": WRONG})
            elif is_harmful(value) and not (keeps_zero and 0 <= value < LEAST):
                of_pattern.append({"vllm": WRONG, "sglang": WRONG})
    for problem in _numbers(case, "lora_alpha", "alpha_pattern", "an alpha"):
        for effects in [of_alpha] if problem.at.field == "lora_alpha" else of_pattern:
            yield Problem(problem.message, problem.at, effects=effects)


def disabling_keys(case: Case) -> list[str]:
    """The keys of ``alpha_pattern`` with a 0, if other modules have another alpha: then it was trained with that."""
    if not any(scale.lora_alpha >= LEAST for scale in case.application.scales.values()):
        return []
    return [key for key, alpha in case.config.alpha_pattern.items() if 0 <= alpha < LEAST]


def _numbers(case: Case, name: str, pattern: str, noun: str) -> Iterator[Problem]:
    """Numbers of a field and its pattern that have the wrong type, are missing, or are not above 0."""

    def does(whose: str, number: float) -> str:
        if name == "r":
            return f"; {whose} is at least 1"
        return ": the adapter is inverted" if number < 0 else ": the adapter does nothing"

    config = case.config
    for field in (name, pattern):
        if field in config.mistyped:
            yield Problem(f"{field} {_type_message(field, config)}", case.in_config(field))
    value = getattr(config, name)
    if name not in config.given:
        yield Problem(f"{name} is missing: PEFT silently uses 8, engines refuse the adapter", case.in_config(name))
    elif value < LEAST:
        yield Problem(f"{name} is {value}{does(noun, value)}", case.in_config(name))
    kept = disabling_keys(case) if pattern == "alpha_pattern" else ()
    low = ((key, one) for key, one in getattr(config, pattern).items() if one < LEAST and key not in kept)
    messages = ((f"{noun} in {pattern} is {one}{does('it', one)}", key) for key, one in low)
    yield from grouped(messages, config.file, "key")


def _type_message(field: str, config: LoraConfig) -> str:
    value = config.mistyped[field]
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which is not a number"
    return cut(config.errors[field].reason)


@check("LC204", "field-type", "config", peft=WRONG, vllm=REJECTS,
       hint="write the value with the type in PEFT's LoraConfig",
       evidence={"peft": "tuners/tuners_utils.py (run)", "vllm": "lora/peft_helper.py (run)"})  # fmt: skip
def field_type(case: Case) -> Problems:
    """A field has a JSON type that PEFT does not support, like ``"use_rslora": "false"``.

    PEFT does not check types: the string ``"false"`` is true, and changes the scaling of every module. If it fails at
    all, it fails later: with a ``bias`` of null when it looks for its end. vLLM refuses ``bias`` and
    ``modules_to_save`` of another type, and asks of others whether they are empty, zero or false.
    """
    config = case.config
    for field, value in config.mistyped.items():
        if field in RANK_AND_ALPHA:
            continue
        is_word = isinstance(value, str) and value.lower() in {"true", "false"}
        effects: Effects = {"vllm": OK}
        if field == "peft_type":
            effects = {"vllm": OK, "sglang": REJECTS}
        elif field == "bias":
            effects = {"peft": REJECTS, "vllm": REJECTS}
        elif field == "modules_to_save" and value:
            effects = {"vllm": REJECTS}
        elif field == "use_rslora" and value and value != 1 and str(value).lower() != "true":
            effects = {"vllm": WRONG}
        hint = f"write {str(value).lower()} without quotes; PEFT treats any non-empty string as true" if is_word else ""
        hint = 'write "none" in its place' if field == "bias" else hint
        yield Problem(f"{field} {_type_message(field, config)}", case.in_config(field), hint, effects)


@check("LC205", "targets-missing", "config", peft=WRONG, vllm=REJECTS, sglang=REJECTS,
       hint="list the modules that were trained",
       evidence={"vllm": "lora/peft_helper.py (run)",
                 "sglang": "lora/lora_config.py, lora/utils.py (read)"})  # fmt: skip
def targets_missing(case: Case) -> Problems:
    """The config has no target modules: ``target_modules`` is missing, null or empty.

    PEFT then guesses modules from the base's family, which may differ from the trained ones; vLLM refuses a config
    without the field, SGLang one with null, too.
    """
    config = case.config
    if any(field in config.mistyped for field in TARGETS):
        return
    if config.target_modules or config.target_parameters or config.trainable_token_indices:
        return
    modules, is_given = sorted({last_name(module) for module in case.adapter.pairs}), "target_modules" in config.given
    state = f"is {'null' if config.target_modules is None else 'empty'}" if is_given else "is missing"
    yield Problem(
        f"target_modules {state}: PEFT guesses the modules from the base's family, engines refuse it",
        case.in_config("target_modules"),
        f"the tensors are for {names(modules, 8)}: list these" if modules else "",
        {"vllm": OK} if is_given else {},
    )


@check("LC206", "duplicate-field", "config", floor=Severity.ERROR, hint="keep the intended value")
def duplicate_field(case: Case) -> Problems:
    """A key appears twice in the JSON.

    Python uses the last one and other parsers the first, so two programs serve different adapters.
    """
    message = "a key appears twice; which value is used depends on the parser"
    yield from grouped(((message, key) for key in case.config.duplicates), case.config.file, "key")


@check("LC207", "unknown-field", "config",
       hint="correct a misspelt name; if another version of PEFT wrote it, check what it changes")  # fmt: skip
def unknown_field(case: Case) -> Problems:
    """The config has fields that PEFT does not know.

    PEFT drops them with a log line. If a newer PEFT gave them a meaning, or one is a misspelt name, the adapter is not
    served as it was trained.
    """
    fields = sorted(name for name, value in case.config.unknown.items() if name not in OLD_FIELDS or value)
    if fields:
        message = f"PEFT ignores {counted(len(fields), 'unknown field')}: {names(fields, 5)}"
        yield Problem(message, case.in_config(cut(fields[0])))


@check("LC208", "pattern-invalid", "config", peft=REJECTS, vllm=SINCE_0_32, sglang=WRONG,
       hint="list the modules by name", evidence={"vllm": "lora/peft_helper.py (run)"})  # fmt: skip
def pattern_invalid(case: Case) -> Problems:
    """A pattern in the config is not a regular expression, or takes too long to match.

    PEFT passes it to Python's ``re``, which raises an error or hangs the process that loads it. vLLM matches the
    patterns of ranks and alphas alone.
    """
    config, of_scales = case.config, case.application.scales_error
    for error in dict.fromkeys(case.application.errors):
        field = error.where.removeprefix(f"{config.file}: ")
        is_read = error is of_scales and (config.rank_pattern or config.alpha_pattern) and config.r > 0
        effects: Effects = {} if is_read else {"vllm": OK}
        yield Problem(cut(error.reason), case.in_config(cut(field)), error.hint, effects)


@check("LC209", "field-value", "config", peft=REJECTS, vllm=SINCE_0_32, sglang=OK, hint=AS_SAVED,
       evidence={"vllm": "lora/peft_helper.py (run)"})  # fmt: skip
def field_value(case: Case) -> Problems:
    """A field has a value that PEFT refuses, alone or combined with another field.

    PEFT raises when it reads the config or builds the layers; engines that ignore the field still serve the adapter.
    vLLM refuses names of ``init_lora_weights`` that it does not know.
    """
    config = case.config
    method = config.init_lora_weights
    is_new = isinstance(method, str) and not re.fullmatch(CHANGES_BASE, method) and method.lower() not in KNOWN_TO_VLLM
    if method == "":
        yield Problem(f"{INIT} is empty", case.in_config(INIT), "set it to true", {"peft": OK})
    errors = (
        *_single_field_errors(config),
        *_initialisation_errors(config, case.application.ranks.values()),
        *_field_combination_errors(config),
        *_variant_errors(case, config),
        *_parameter_errors(case, config),
    )
    for field, message, hint in errors:
        yield Problem(message, case.in_config(field), hint, {} if field == INIT and is_new else {"vllm": OK})


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
    field, method = INIT, config.init_lora_weights
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


def _parameter_errors(case: Case, config: LoraConfig) -> FieldErrors:
    """Fields that PEFT refuses on parameters, by the config as PEFT loads it on the base."""
    loaded = case.application.adapter.config or config
    if not loaded.target_parameters:
        return
    what = "target_parameters" if config.target_parameters else "the base's fused experts"
    for field in ONLY_ON_MODULES:
        if getattr(config, field) not in (None, 0, False):  # an empty object counts
            hint = f"the weights do not depend on it: set {field} to 0" if field == "lora_dropout" else "remove it"
            yield field, f"{field} is {shown(getattr(config, field))}: PEFT refuses it on {what}", hint
    if case.base is None or not isinstance(loaded.target_modules, tuple):
        return
    weights = (f"{one}.weight" for one in case.base.modules)
    named = Endings(loaded.target_modules)
    both = [path for one in targeted_parameters(loaded, weights) if (path := one.removesuffix(".weight")) in named]
    if both:
        message = f"target_modules and target_parameters both list {names(both)}: PEFT refuses it"
        yield "target_parameters", message, "list it in only one of them"


def _pattern_paths(case: Case) -> list[str] | None:
    """The paths that PEFT matches keys of patterns with: the adapter's modules and its parameters; None if too many."""
    leaves = {last_name(name) for name in case.config.target_parameters or ()}
    if len(leaves) > MOST_PARAMETERS:
        return None
    modules = {module.removesuffix(WRAPPER) for module in case.adapter.pairs}
    return [*case.adapter.pairs, *(f"{module}.{leaf}" for module in sorted(modules) for leaf in sorted(leaves))]


@check("LC210", "dead-pattern", "config", "weights", hint="correct the name or remove it")
def dead_pattern(case: Case) -> Problems:
    """A name or pattern of the config matches nothing, or ``alpha_pattern`` has a 0 for some of the modules.

    PEFT ignores a name without a match silently: an intended rank, alpha, target or exclusion is missing. Usually it is
    misspelt or from another base. Modules with an alpha of 0 change nothing, in training as in every engine that reads
    the pattern.
    """
    config, paths, messages = case.config, _pattern_paths(case), list[tuple[str, str]]()
    if paths is None:
        yield NotChecked(TOO_MANY)
    for field in PATTERNS if paths is not None else ():
        keys = {} if field in config.mistyped else getattr(config, field)
        try:
            matching = matching_keys(keys, paths or (), f"{config.file}: {field}") if keys else {}
        except FormatError:  # another check reports that
            continue
        alive = {*(paths or ()), *chain.from_iterable(matching.values())}
        messages += [(f"{field} matches no module of the adapter", key) for key in keys if key not in alive]
    messages += [(f"{field} matches no module of the base", name) for field, name in _dead_names(case)]
    messages += [("an alpha in alpha_pattern is 0: its modules do nothing", key) for key in disabling_keys(case)]
    yield from grouped(messages, config.file, "name")


def _dead_names(case: Case) -> Iterator[tuple[str, str]]:
    """Names in lists that match no module of the base, and layers beyond its last: (field, name)."""
    # The config as PEFT loads it: it rewrites the names of experts that the base has fused.
    config, base = case.application.adapter.config, case.base
    if config is None or base is None or case.application.absent or case.application.beyond:
        return  # other checks report that the base is another one
    heads = HEADS.get(config.task_type or "", ())
    called = {ending for module in base.modules for ending in endings(module)}
    for field in ("target_modules", "exclude_modules"):
        listed = getattr(config, field) if field not in config.mistyped else None
        for name in () if isinstance(listed, str) else listed or ():
            if name.partition(".")[0] not in heads and name not in called:
                yield field, name
    layers = config.layers_to_transform
    chosen = (layers,) if isinstance(layers, int) else layers or ()
    if not config.layer_replication:
        yield from (("layers_to_transform", f"layer {layer}") for layer in chosen if layer >= base.num_layers)


@check("LC211", "alpha-order", "config", "weights", hint="write keys that do not overlap")
def alpha_order(case: Case) -> Problems:
    """Several keys of ``alpha_pattern`` match one module with different values.

    PEFT uses the first, and sorts the keys when it saves: the order in training is lost, so the module may be scaled by
    a different alpha than in training. (Ranks are known from the tensors.)
    """
    config, messages = case.config, list[tuple[str, str]]()
    pattern = config.alpha_pattern if "alpha_pattern" not in config.mistyped else {}
    paths = _pattern_paths(case) if len(set(pattern.values())) > 1 else []
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
    for problem in grouped(messages, config.file, "module"):
        yield Problem(problem.message, case.in_config("alpha_pattern"))
