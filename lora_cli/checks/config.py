"""LC2xx: ``adapter_config.json`` alone, and the modules that its patterns match."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from lora_cli.adapter.adapter import WRAPPER, last_name
from lora_cli.adapter.config import raw_value
from lora_cli.checks.case import Case
from lora_cli.checks.check import OK, REJECTS, WRONG, Problems, check, grouped
from lora_cli.engines import BUILT, IA3_FAMILIES
from lora_cli.errors import FormatError
from lora_cli.finding import Effects, Outcome, Problem, Severity
from lora_cli.parse import LARGEST
from lora_cli.peft.targets import (
    HEADS,
    SCALE_FIELDS,
    Endings,
    endings,
    matching_keys,
    targeted_in,
    targeted_parameters,
)
from lora_cli.text import counted, cut, names, shown

OLD_FIELDS = frozenset({"enable_lora", "merge_weights"})
"""Fields of PEFT 0.2, which have no effect if they are null or false."""

BIASES = ("none", "all", "lora_only")
TASKS = (None, "SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
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

MOST_PARAMETERS = 16
"""The number of last names of ``target_parameters`` up to which patterns are matched; experts have four."""


@check("LC201", "not-lora", peft=REJECTS, vllm=OK, hint="this is another PEFT method; only LoRA adapters can be served",
       evidence={"vllm": "lora/peft_helper.py (run)", "sglang": "lora/lora.py (read)"})  # fmt: skip
def not_lora(case: Case) -> Problems:
    """The config is not that of a LoRA adapter: ``peft_type`` is missing or names another method.

    PEFT builds another method's layers for another type. vLLM does not read the field: it serves LoRA factors under any
    type, and rejects what has none.
    """
    config, foreign, has_factors = case.adapter.config, case.adapter.foreign, bool(case.adapter.pairs)
    if config is None or "peft_type" in config.mistyped or config.peft_type == "LORA":
        return
    if foreign is not None and foreign.file != config.file:
        return
    if has_factors and config.peft_type in BUILT:
        is_built = config.peft_type != "IA3" or case.base is None or case.base.model_type in IA3_FAMILIES
    else:
        is_built = foreign is not None and bool(case.adapter.weight_files)
    vllm = REJECTS if foreign is not None and not has_factors else OK
    effects = {"peft": WRONG if is_built else REJECTS, "vllm": vllm}
    message, hint = f"peft_type is {shown(config.peft_type)}", 'write "LORA" if this is a LoRA adapter'
    if foreign is not None:
        message, hint = f"{message}: this is {foreign.title}", foreign.advice
    yield Problem(message, case.in_config("peft_type"), hint, effects)


def _wrong(case: Case, name: str) -> Iterator[tuple[str, Any, bool | None]]:
    """Numbers that are not right: where, the value, and for a key of the pattern whether PEFT uses it, maybe."""
    config, pattern = case.config, {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}[name]
    values = raw_value(config, pattern)
    if name not in config.given or not _is_right(name, raw_value(config, name)):
        yield name, raw_value(config, name), None
    if not isinstance(values, Mapping):
        yield pattern, values, None
        return
    wrong = [key for key, value in values.items() if not _is_right(name, value)]
    try:
        matching = matching_keys(values, case.adapter.pairs, config.file).values() if wrong else ()
        used = {keys[0] for keys in matching if keys}
    except FormatError:
        used = set(wrong)
    yield from ((key, values[key], key in used) for key in wrong)


def _is_right(name: str, value: Any) -> bool:
    """Whether PEFT can scale with it: a positive integer as rank, and a finite number that is not 0 as alpha."""
    if not _is_number(value):
        return False
    return isinstance(value, int) and value > 0 if name == "r" else LEAST <= value < math.inf


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be divided: an integer may be too large for a float."""
    return isinstance(value, float) or (isinstance(value, int) and value is not True and abs(value) <= LARGEST)


@check("LC202", "rank-invalid", "config", peft=REJECTS, hint="write the rank of the tensors as a number",
       evidence={"peft": "tuners/lora/layer.py (run)", "vllm": "lora/peft_helper.py (run)"})  # fmt: skip
def rank_invalid(case: Case) -> Problems:
    """``r``, or a rank in ``rank_pattern``, is not a positive integer, or ``r`` is missing.

    Without ``r`` PEFT silently uses 8, which fails on tensors of another rank, and engines refuse the adapter. PEFT
    reads only the patterns that a module matches, vLLM all of them.
    """
    for where, value, is_used in _wrong(case, "r"):
        effects: Effects = {}
        if is_used is not None:
            as_one = WRONG if is_used else OK
            effects = {"peft": REJECTS if is_used else OK, "vllm": as_one if value is True else REJECTS}
        elif where != "r":
            effects = {"vllm": REJECTS if value else OK}
        elif "r" not in case.config.given:
            effects = {"peft": REJECTS if case.other_ranks else OK}
        elif isinstance(value, float) and value.is_integer() and value > 0:
            effects = {"vllm": OK}
        elif value is True or (isinstance(value, float) and 0 < value < math.inf):
            effects = {"vllm": WRONG}
        yield _not(case, where, value, "a positive integer", effects)


@check("LC203", "alpha-invalid", "config", peft=WRONG, vllm=REJECTS, sglang=REJECTS,
       hint="write the lora_alpha that the adapter was trained with, as a number",
       evidence={"peft": "tuners/lora/layer.py (run)", "vllm": "lora/peft_helper.py (run)",
                 "sglang": "lora/lora_config.py (reasoned)"})  # fmt: skip
def alpha_invalid(case: Case) -> Problems:
    """``lora_alpha``, or one in ``alpha_pattern``, is not a positive number, or ``lora_alpha`` is missing.

    It scales the whole adapter: 0 disables it, NaN corrupts every answer, a negative value reverses the training.
    Without it PEFT silently uses 8 and engines refuse the adapter.
    """
    kept = disabling_keys(case)
    for where, value, is_used in _wrong(case, "lora_alpha"):
        effects: dict[str, Outcome] = {"sglang": WRONG}
        if is_used is not None and where in kept:
            continue
        if is_used is False:
            effects |= {"vllm": OK}
        elif where == "lora_alpha" and where not in case.config.given:
            effects = {}
        elif (is_used or where == "lora_alpha") and (isinstance(value, bool) or _is_number(value)):
            effects |= {"vllm": WRONG}
        elif where == "lora_alpha":
            effects = {"peft": REJECTS}
        else:
            effects |= {"peft": REJECTS, "vllm": REJECTS if value or (is_used and value is not None) else OK}
        yield _not(case, where, value, "a positive number", effects)


def _not(case: Case, where: str, value: Any, wanted: str, effects: Effects) -> Problem:
    is_missing = where in {"r", "lora_alpha"} and where not in case.config.given
    said = "is missing: PEFT silently uses 8" if is_missing else f"is {shown(value)}, not {wanted}"
    if is_missing and where == "r" and (other := case.other_ranks):
        said += f", but the rank is {case.adapter.pairs[other[0]].rank} in the tensors ({cut(other[0])})"
    return Problem(f"{cut(where)} {said}", case.in_config(cut(where)), effects=effects)


def disabling_keys(case: Case) -> list[str]:
    """The keys of ``alpha_pattern`` with a 0, if other modules have another alpha: then it was trained with that."""
    if not any(scale.lora_alpha >= LEAST for scale in case.application.scales.values()):
        return []
    return [key for key, alpha in case.config.alpha_pattern.items() if 0 <= alpha < LEAST]


@check("LC204", "field-type", "config", peft=WRONG, vllm=REJECTS,
       hint="write the value with the type in PEFT's LoraConfig",
       evidence={"peft": "tuners/tuners_utils.py (run)", "vllm": "lora/peft_helper.py (run)"})  # fmt: skip
def field_type(case: Case) -> Problems:
    """A field has a JSON type that PEFT does not support, like ``"use_rslora": "false"``.

    PEFT does not check types: the string ``"false"`` is true. vLLM refuses ``bias`` and ``modules_to_save`` of another
    type, and asks of others whether they are empty, zero or false.
    """
    config = case.config
    for field, value in config.mistyped.items():
        effects: Effects = {"vllm": OK}
        if field in SCALE_FIELDS[:4]:  # other checks look at these
            continue
        if field == "peft_type":
            effects = {"vllm": OK, "sglang": REJECTS}
        elif field == "bias":
            effects = {"peft": REJECTS}
        elif field == "modules_to_save" and value:
            effects = {}
        elif field == "use_rslora" and value and value != 1 and str(value).lower() != "true":
            effects = {"vllm": WRONG}
        yield Problem(f"{field} {cut(config.errors[field].reason)}", case.in_config(field), effects=effects)


@check("LC205", "targets-nothing", "config", peft=WRONG, vllm=REJECTS, sglang=REJECTS,
       hint="list the modules that were trained",
       evidence={"peft": "tuners/lora/model.py (run)", "vllm": "lora/peft_helper.py (run)",
                 "sglang": "lora/lora_config.py, lora/utils.py (read)"})  # fmt: skip
def targets_nothing(case: Case) -> Problems:
    """``target_modules`` is missing, null or empty, or matches no module of the base.

    Without it PEFT guesses modules by the base's family, and refuses a config that targets nothing; vLLM refuses a
    config without the field, SGLang one with null, too.
    """
    config, application, none = case.config, case.application, targets_none(case)
    named = config.target_modules or config.target_parameters or config.trainable_token_indices
    if {"target_modules", "target_parameters"} & config.mistyped.keys():
        return
    if named and (not none or application.absent or application.beyond):  # the latter is another check's
        return
    is_given = "target_modules" in config.given
    effects: dict[str, Outcome] = {"peft": REJECTS if none else WRONG, "sglang": OK if named else REJECTS}
    state = f"is {shown(config.target_modules)}" if is_given else "is missing"
    leaves = sorted({last_name(module) for module in case.adapter.pairs})
    yield Problem(
        f"target_modules {state}, and {'PEFT finds none in the base' if none else 'PEFT guesses which were trained'}",
        case.in_config("target_modules"),
        f"the tensors are for {names(leaves, 8)}: list these" if leaves else "",
        effects | ({"vllm": OK} if is_given or named else {}),
    )


def targets_none(case: Case) -> bool:
    """Whether PEFT finds nothing in the base to put LoRA on, so that it refuses the config."""
    config, base = case.application.adapter.config, case.base
    if config is None or base is None or config.target_parameters or config.trainable_token_indices:
        return False
    try:
        return not targeted_in(config, base)
    except FormatError:
        return config.target_modules is None and "target_modules" not in config.mistyped


@check("LC206", "duplicate-field", "config", floor=Severity.ERROR, hint="keep the intended value")
def duplicate_field(case: Case) -> Problems:
    """A key appears twice in the JSON: Python uses the last one, other parsers the first."""
    message = "a key appears twice; which value is used depends on the parser"
    yield from grouped(((message, key) for key in case.config.duplicates), case.config.file, "key")


@check("LC207", "unknown-field", "config",
       hint="correct a misspelt name; if another version of PEFT wrote it, check what it changes")  # fmt: skip
def unknown_field(case: Case) -> Problems:
    """The config has fields that PEFT does not know and ignores: misspelt names, or those of a newer version."""
    fields = sorted(name for name, value in case.config.unknown.items() if name not in OLD_FIELDS or value)
    if fields:
        message = f"PEFT ignores {counted(len(fields), 'unknown field')}: {names(fields, 5)}"
        yield Problem(message, case.in_config(cut(fields[0])))


@check("LC208", "pattern-invalid", "config", peft=REJECTS, sglang=WRONG,
       hint="list the modules by name", evidence={"vllm": "lora/peft_helper.py (run)"})  # fmt: skip
def pattern_invalid(case: Case) -> Problems:
    """A pattern in the config is not a regular expression, or takes too long to match.

    It fails or hangs the process that loads it; vLLM only matches the patterns of ranks and alphas.
    """
    config, scales_error = case.config, case.application.scales_error
    of_scales = scales_error.where if scales_error is not None else ""
    for error in dict.fromkeys(case.application.errors):
        is_read = error.where == of_scales and (config.rank_pattern or config.alpha_pattern)
        field = case.in_config(cut(error.where.removeprefix(f"{config.file}: ")))
        yield Problem(cut(error.reason), field, error.hint, {} if is_read else {"vllm": OK})


@check("LC209", "field-value", "config", peft=REJECTS, sglang=OK,
       hint="restore the field as save_pretrained() wrote it",
       evidence={"vllm": "lora/peft_helper.py (run)"})  # fmt: skip
def field_value(case: Case) -> Problems:
    """A field has a value that PEFT refuses, alone or combined with another field.

    Engines that ignore the field serve the adapter; vLLM refuses names of ``init_lora_weights`` that it does not know.
    """
    config, method = case.config, case.config.init_lora_weights
    is_new = isinstance(method, str) and not re.fullmatch(CHANGES_BASE, method) and method.lower() not in KNOWN_TO_VLLM
    if method == "":
        yield Problem(f"{INIT} is empty", case.in_config(INIT), "set it to true", {"peft": OK})
    for field, is_wrong, refusal in _refusals(case):
        if is_wrong:
            effects: Effects = {} if field == INIT and is_new else {"vllm": OK}
            message = f"{field} is {shown(getattr(config, field))}: PEFT {refusal}"
            yield Problem(message, case.in_config(field), effects=effects)


def _refusals(case: Case) -> Iterator[tuple[str, object, str]]:
    """What PEFT refuses: the field, whether it has such a value, and why."""
    config = case.config
    yield "lora_dropout", config.lora_dropout > 1, "takes at most 1"
    yield "bias", config.bias not in BIASES, f"knows {', '.join(BIASES)}"
    yield "task_type", config.task_type not in TASKS, f"knows {', '.join(filter(None, TASKS))}"
    trained = config.trainable_token_indices or ()
    lists = [trained] if isinstance(trained, tuple) else trained.values()
    is_wrong = any(len(set(tokens)) < len(tokens) or min(tokens, default=0) < 0 for tokens in lists)
    yield "trainable_token_indices", is_wrong, "refuses a token twice, or below 0"
    method = config.init_lora_weights  # PEFT initialises a layer before it loads the weights
    if isinstance(method, str) and method:
        yield INIT, not re.fullmatch(INITIALISATION, method), "does not know it"
        yield INIT, method.startswith("corda"), "needs the results of preprocess_corda to load it"
        is_wrong = not {"loftq_bits", "loftq_iter"} <= (config.loftq_config or {}).keys()
        yield INIT, method == "loftq" and is_wrong, "needs loftq_bits and loftq_iter in loftq_config"
        is_odd = any(rank % 2 for rank in case.application.ranks.values())
        yield INIT, method == "orthogonal" and is_odd, "refuses an odd rank with it"
        yield "lora_bias", config.lora_bias, f"refuses it with {INIT} {shown(method)}"
    one_string = isinstance(config.target_modules, str)
    for field in ("layers_to_transform", "layers_pattern"):
        yield field, one_string and getattr(config, field) is not None, "refuses it if target_modules is a string"
    alone = config.layers_to_transform is None and "layers_to_transform" not in config.mistyped
    yield "layers_pattern", config.layers_pattern and alone, "refuses it without layers_to_transform"
    for field in ("lora_bias", "megatron_config"):
        yield field, config.use_dora and getattr(config, field), "refuses it with use_dora"
    # An empty object counts, but for the empty list of aLoRA's.
    chosen = [field for field in VARIANTS if getattr(config, field) not in (None, False, ())]
    if len(chosen) > 1:
        yield chosen[1], True, f"refuses {names(chosen)} together"
    yield "arrow_config", "arrow_config" in chosen, "loads this router only with create_arrow_model()"
    yield "use_bdlora", config.use_bdlora == {}, "needs targeted modules in it"
    has_embedding = any(pair.embedding for pair in case.adapter.pairs.values())
    for field in (*chosen, *(["lora_bias"] if config.lora_bias else [])):
        yield field, has_embedding and field != "use_dora", "refuses it on an embedding"
    loaded = case.application.adapter.config or config  # it has the base's fused experts as parameters
    for field in ONLY_ON_MODULES if loaded.target_parameters else ():  # an empty object counts
        yield field, getattr(config, field) not in (None, 0, False), "refuses it on parameters, as of fused experts"
    if loaded.target_parameters and case.base is not None and isinstance(loaded.target_modules, tuple):
        named, weights = Endings(loaded.target_modules), (f"{one}.weight" for one in case.base.modules)
        both = any(one.removesuffix(".weight") in named for one in targeted_parameters(loaded, weights))
        yield "target_parameters", both, "refuses what target_modules lists, too"


@check("LC210", "pattern-match", "config", "weights", hint="correct or remove the name; let no two keys match a module")
def pattern_match(case: Case) -> Problems:
    """A name or pattern of the config matches nothing, or ``alpha_pattern`` has a 0, or two alphas for a module.

    PEFT ignores a name without a match. An alpha of 0 disables a module. Of two alphas the first counts, but PEFT sorts
    the keys when it saves: it may be another than in training.
    """
    config, messages = case.config, list[tuple[str, str]]()
    # PEFT matches keys with the paths of modules and of parameters.
    leaves = sorted({last_name(name) for name in config.target_parameters or ()})[:MOST_PARAMETERS]
    modules = {module.removesuffix(WRAPPER) for module in case.adapter.pairs}
    paths = [*case.adapter.pairs, *(f"{module}.{leaf}" for module in sorted(modules) for leaf in leaves)]
    for field, keys in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        try:
            matching = matching_keys(keys, paths, f"{config.file}: {field}") if keys else {}
        except FormatError:  # another check reports that
            continue
        alive = {*paths, *chain.from_iterable(matching.values())}
        messages += [(f"{field} matches no module of the adapter", key) for key in keys if key not in alive]
        if field == "alpha_pattern":
            several = (matched for matched in matching.values() if len({keys[key] for key in matched}) > 1)
            messages += [(f"{names(matched)} in {field} match the same modules", matched[0]) for matched in several]
    # The config as PEFT loads it: it rewrites the names of experts that the base has fused.
    loaded, base = case.application.adapter.config, case.base
    if loaded is not None and base is not None and not case.application.absent and not case.application.beyond:
        heads = HEADS.get(config.task_type or "", ())
        called = {ending for module in base.modules for ending in endings(module)}
        lists = ((field, getattr(loaded, field)) for field in ("target_modules", "exclude_modules"))
        listed = [(field, name) for field, named in lists if isinstance(named, tuple) for name in named]
        dead = [(field, one) for field, one in listed if one.partition(".")[0] not in heads and one not in called]
        layers = loaded.layers_to_transform
        chosen = (layers,) if isinstance(layers, int) else layers or ()
        beyond = (layer for layer in chosen if layer >= base.num_layers and not loaded.layer_replication)
        dead += [("layers_to_transform", f"layer {layer}") for layer in beyond]
        messages += [(f"{field} matches no module of the base", name) for field, name in dead]
    messages += [("an alpha in alpha_pattern is 0: its modules do nothing", key) for key in disabling_keys(case)]
    yield from grouped(dict.fromkeys(messages), config.file, "name")
