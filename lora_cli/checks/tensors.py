"""LC30x, LC310, LC5xx: the tensors, their names, shapes and values, alone and compared with the config."""

import math
from collections.abc import Mapping

from lora_cli.adapter.adapter import PAIR_PARTS, Adapter, last_name
from lora_cli.checks.case import Case, On
from lora_cli.checks.check import ALL_OK, CRASHES, OK, REJECTS, WRONG, NotChecked, Problems, check, grouped, shape
from lora_cli.engines import packed_in
from lora_cli.engines.name_resolution import named_alike
from lora_cli.finding import NO_BASE, Outcome, Problem, Severity
from lora_cli.peft.match import DEFAULT_NAME, dropped_for
from lora_cli.text import counted, cut, names

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
VARIANTS = (
    ("use_dora", "magnitude", "lora_magnitude_vector"),
    ("lora_bias", "lora_bias", "bias"),
    ("kasa_config", "diag", "lora_diag"),
)
"""Variants that give every module another tensor: the field, the part, and the tensor's name on disk."""
TRAINED = PAIR_PARTS | {"saved", "base_layer", "bias", "lora_bias", "magnitude", "diag", "trainable_tokens"}


@check("LC301", "rank-mismatch", "config", "weights", peft=REJECTS, vllm=WRONG, sglang=CRASHES,
       hint="write the tensors' rank into r or rank_pattern of the config")  # fmt: skip
def rank_mismatch(case: Case) -> Problems:
    """The rank in the config is not the rank that the tensors have.

    PEFT refuses it. vLLM scales the tensors by the config's ``lora_alpha / r``: silently too strong or too weak.
    """
    pairs, ranks = case.application.adapter.pairs, case.application.ranks
    other = case.other_ranks if "r" in case.config.given else ()  # another check says that there is no r
    messages = ((f"the rank is {ranks[one]} in the config, but {pairs[one].rank} in the tensors", one) for one in other)
    yield from grouped(messages, case.weights_file, "module")


@check("LC302", "pair-incomplete", "weights", peft=WRONG, vllm=REJECTS, sglang=CRASHES,
       hint="a part of the adapter is missing: save or convert it again",
       evidence={"vllm": "lora/model_manager.py (run)"})  # fmt: skip
def pair_incomplete(case: Case) -> Problems:
    """A module has A without B, or B without A.

    PEFT leaves the missing one as it was initialised; vLLM fails, or leaves a part of a packed module at zero.
    """
    pairs = case.adapter.pairs.items()
    without_b = [("there is lora_A without its lora_B", module) for module, pair in pairs if pair.b is None]
    without_a = [("there is lora_B without its lora_A", module) for module, pair in pairs if pair.a is None]
    packed = [one for one in without_a if packed_in(last_name(one[1]))]
    yield from grouped([*without_b, *(one for one in without_a if one not in packed)], case.weights_file, "module")
    yield from grouped(packed, case.weights_file, "module", effects={"vllm": WRONG})


@check("LC303", "name-form", "weights", peft=WRONG, vllm=REJECTS,
       hint="`lora-cli repair` rewrites the names; or save it again with PEFT, from the unwrapped model",
       evidence={"vllm": "lora/utils.py (run)", "sglang": "lora/lora.py (reasoned)"})  # fmt: skip
def name_form(case: Case, on: On) -> Problems:
    """Tensor names are not in PEFT's form: a prefix is missing or doubled, a wrapper added one, or two names mean one.

    PEFT silently drops the names that it does not find. Names from ``state_dict()`` (``lora_A.default.weight``) are
    loaded by PEFT and refused by vLLM.
    """
    keys = [key for key in case.application.adapter.keys.values() if key.part != "unknown"]
    dropped = {key: reason for key in keys if (reason := dropped_for(key))}
    once = {(key.module, key.part) for key in keys if key.canonical and key.part in PAIR_PARTS}
    messages = [(f"{reason}; PEFT drops the tensor", key.name) for key, reason in dropped.items()]
    messages += [
        ("another tensor is the same factor under PEFT's own name; only one of them is used", key.name)
        for key in keys
        if key not in dropped and not key.canonical and (key.module, key.part) in once
    ]
    effect = WRONG
    if on.name != "peft":
        misnamed = (key for key in case.adapter.keys.values() if key.adapter_name and dropped_for(key))
        refused = not on.profile.engine.by_layer and any(key.part in PAIR_PARTS | {"lora_bias"} for key in misnamed)
        # Of a base that is known, another check says which modules are found under such names.
        wrapped = case.base is None and not on.profile.engine.by_layer and any(key.infixes for key in dropped)
        effect = REJECTS if refused else WRONG if wrapped or named_alike(case.adapter, on.profile) else OK
    yield from grouped(messages, case.weights_file, "tensor", effects={on.name: effect})
    in_memory = [key.name for key in keys if key.adapter_name == DEFAULT_NAME and key not in dropped]
    message = f"the name contains .{DEFAULT_NAME}., as in memory"
    effects = {on.name: REJECTS if on.name == "vllm" else OK}
    yield from grouped(((message, name) for name in in_memory), case.weights_file, "tensor", effects=effects)


@check("LC305", "foreign-tensor", "weights", peft=WRONG, vllm=REJECTS,
       hint="save it with PEFT, or convert it to PEFT's names; serve a merged model as a model, not as an adapter",
       evidence={"vllm": "lora/utils.py (run)"})  # fmt: skip
def foreign_tensor(case: Case) -> Problems:
    """A tensor's name is not one of a LoRA adapter, or the file contains no A and no B at all.

    PEFT drops such a tensor silently, vLLM refuses the adapter. Without factors it may be a merged model.
    """
    if not case.adapter.pairs:
        found = list(case.adapter.tensors)
        yield Problem(f"no lora_A or lora_B in {counted(len(found), 'tensor')}: {names(found)}", case.in_weights())
        return
    unknown = [key.name for key in case.adapter.keys.values() if key.part == "unknown"]
    message = "the name is not one that PEFT writes for LoRA"
    yield from grouped(((message, name) for name in unknown), case.weights_file, "tensor")


@check("LC306", "factor-shape", "weights", peft=REJECTS, vllm=REJECTS, sglang=CRASHES,
       hint="gather the parameters before saving (ZeRO-3, FSDP)",
       evidence={"vllm": "lora/layers/base_linear.py (run)"})  # fmt: skip
def factor_shape(case: Case) -> Problems:
    """A or B is not a matrix with at least one row and column, as ZeRO-3 and FSDP save it, or their ranks differ."""
    experts, found = set(shared_experts(case.adapter)), dict[Outcome, list[tuple[str, str]]]()
    for module, pair in case.adapter.pairs.items():
        shapes = ((case.adapter.keys[one.name].part, one.shape) for one in pair.factors)
        odd = {part: dims for part, dims in shapes if len(dims) != 2 or 0 in dims}
        for part, dims in odd.items():
            vllm = WRONG if len(dims) == 2 else OK if module in experts else REJECTS
            found.setdefault(vllm, []).append((f"{part} has the shape {shape(dims)}, but must be a matrix", module))
        if pair.a and pair.b and not odd and not case.unserved_variant and pair.a.shape[0] != pair.b.shape[1]:
            message = f"lora_A {shape(pair.a.shape)} and lora_B {shape(pair.b.shape)} do not have the same rank"
            found.setdefault(WRONG, []).append((message, module))
    for vllm, messages in found.items():
        effects = {"vllm": vllm, "sglang": OK if vllm is OK else CRASHES}
        yield from grouped(messages, case.weights_file, "module", effects=effects)


def is_expert(module: str) -> bool:
    """Whether a module is of experts."""
    return "experts" in module.split(".")


def shared_experts(adapter: Adapter) -> list[str]:
    """The modules of experts that share a factor: with three dimensions, and one expert in the first."""
    experts = ((module, pair) for module, pair in adapter.pairs.items() if is_expert(module))
    return [m for m, pair in experts if any(len(one.shape) == 3 and one.shape[0] == 1 for one in pair.factors)]


@check("LC307", "untargeted-tensors", "config", "weights", peft=WRONG, vllm=OK, sglang=CRASHES,
       hint="add them to target_modules, if they were trained")  # fmt: skip
def untargeted_tensors(case: Case) -> Problems:
    """The weights contain modules that the config does not target.

    PEFT drops such tensors silently; vLLM uses them. ``layers_to_transform`` and ``exclude_modules`` count, too.
    """
    message = "the config does not target the module; PEFT drops its tensors"
    yield from grouped(((message, name) for name in case.application.untargeted), case.config.file, "module")


@check("LC309", "factor-dtype", "weights", peft=WRONG, hint="save the factors as bf16, f16 or f32")
def factor_dtype(case: Case) -> Problems:
    """A trained tensor is stored as integers or booleans, or as floats of 8 bits or less, without scales."""
    stored = [
        (key.param or key.part, case.adapter.tensors[name].dtype, key.module)
        for name, key in case.adapter.keys.items()
        if key.part in TRAINED and key.param in {"", "weight", "bias"}
    ]
    odd = [(f"{part} is stored as {dtype}", dtype, module) for part, dtype, module in stored if dtype not in FLOATS]
    for effects, is_whole in (({}, True), (ALL_OK, False)):
        messages = ((message, at) for message, dtype, at in odd if dtype.startswith(("BOOL", "I", "U")) == is_whole)
        yield from grouped(messages, case.weights_file, "module", effects=effects)


@check("LC310", "variant-incomplete", "config", "weights", peft=WRONG, vllm=OK,
       hint="set the field as in training, or save the adapter again")  # fmt: skip
def variant_incomplete(case: Case) -> Problems:
    """The config enables DoRA, KaSA or a bias on lora_B but a module has no tensor for it, or the other way round.

    PEFT silently leaves missing tensors as initialised, and drops those that are not enabled.
    """
    config, messages = case.config, list[tuple[str, str]]()
    for field, part, tensor in VARIANTS:
        if field in config.mistyped:
            continue
        having = {key.module for key in case.adapter.keys.values() if key.part == part}
        if getattr(config, field) not in (None, False):  # an empty object counts
            without = f"{field} is set, but there is no {tensor}"
            messages += [(without, module) for module in case.adapter.pairs if module not in having]
        else:
            messages += [(f"there is a {tensor}, but {field} is not set: PEFT drops it", module) for module in having]
    tokens = {key.module for key in case.adapter.keys.values() if key.part == "trainable_tokens"}
    if tokens and config.trainable_token_indices is None and "trainable_token_indices" not in config.mistyped:
        dropped = "there are trained tokens, but trainable_token_indices lists none: PEFT drops them"
        messages += [(dropped, module) for module in tokens]
    yield from grouped(sorted(messages), case.weights_file, "module")


LARGEST: Mapping[str, float] = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38}
"""The largest finite value of each dtype that a model is served in."""

HUGE = 10.0
"""Root mean square from which an update dominates the base, whose weights have 0.01 to 0.05."""

NEGLIGIBLE = 1e-5
"""Root mean square below which an update has no effect: of 26 published sets of adapters the weakest has 5.7e-5."""

OUTLIER = 1000.0
"""The multiple of the median of all modules from which an update is an outlier."""

FEWEST = 8
"""The number of modules from which a median is used."""


@check("LC501", "nonfinite-values", "weights", "values", peft=WRONG,
       hint="the training diverged: use an earlier checkpoint")  # fmt: skip
def nonfinite_values(case: Case) -> Problems:
    """A tensor contains NaN or infinity.

    Every engine loads it silently. One NaN makes all logits of a request NaN, and may reach others in its batch.
    """
    bad = [name for name, values in case.evidence.stats.items() if values.largest == math.inf]
    if bad:
        message = f"{counted(len(bad), 'tensor contains', 'tensors contain')} NaN or infinity: {names(bad)}"
        yield Problem(message, case.in_weights(bad[0]))


@check("LC502", "zero-update", "weights", "values", peft=WRONG,
       hint="it seems untrained: save it after training; with ZeRO-3 and FSDP gather the parameters first")  # fmt: skip
def zero_update(case: Case) -> Problems:
    """A or B is zero in every module, so that the adapter changes nothing; or a saved weight is all zeros.

    LoRA starts with B at zero: an adapter that was saved before training serves as the base model. A whole matrix, or
    DoRA's magnitude, of zeros replaces the base's own: the module no longer works.
    """
    stats, pairs, tensors = case.evidence.stats, case.adapter.pairs.values(), case.adapter.tensors
    scanned = [[one.name for one in pair.factors if one.nbytes and one.name in stats] for pair in pairs]
    zeros = [
        next((name for name in reversed(factors) if stats[name].largest == 0), "") for factors in scanned if factors
    ]
    if zeros and all(zeros) and not _has_other_tensors(case):
        yield Problem("A or B is zero in every module: the adapter changes nothing", case.in_weights(zeros[0]))
    emptied = [
        name
        for name, key in case.adapter.keys.items()
        if name in stats and stats[name].largest == 0 and tensors[name].nbytes
        if key.part == "magnitude" or (key.part in {"saved", "base_layer"} and len(tensors[name].shape) == 2)
    ]
    if emptied:
        message = f"{counted(len(emptied), 'tensor')} of zeros would replace the base's: {names(emptied)}"
        yield Problem(message, case.in_weights(emptied[0]))


def _has_other_tensors(case: Case) -> bool:
    """Whether tensors other than factors may change the model."""
    factors = {factor.name for pair in case.adapter.pairs.values() for factor in pair.factors}
    return any(key.part != "unknown" for name, key in case.adapter.keys.items() if name not in factors)


@check("LC503", "overflow", "config", "weights", "values", peft=WRONG,
       hint="serve it in bfloat16, or use an earlier checkpoint")  # fmt: skip
def overflow(case: Case) -> Problems:
    """A factor, or B times the scaling, exceeds the range of the dtype in which the base is served.

    Engines cast A and B to the base's dtype, and multiply the scaling into B first. In float16 everything beyond 65504
    becomes infinity, and the request's logits NaN.
    """
    stats, scales, largest = case.evidence.stats, case.application.scales, dict[str, float]()
    for module, pair in case.adapter.pairs.items():
        scaling = abs(scales[module].scaling) if module in scales else 1.0
        for factor in pair.factors:
            one = stats.get(factor.name)
            if one is not None and not math.isnan(one.norm):
                largest[factor.name] = one.largest * (max(1.0, scaling) if factor is pair.b else 1.0)
    dtype = case.base.dtype if case.base is not None else ""
    most = LARGEST.get(dtype, LARGEST["float16"])
    beyond = [name for name, value in largest.items() if value > most]
    if beyond and dtype in LARGEST:
        has = f"{counted(len(beyond), 'tensor has', 'tensors have')} values up to {largest[beyond[0]]:.3g}"
        message = f"{has} once scaled, but the maximum of {dtype} is {most:.5g}: {names(beyond)}"
        yield Problem(message, case.in_weights(beyond[0]))
    elif beyond:
        why = NO_BASE if case.base is None else "the base's config has no known dtype"
        yield NotChecked(f"{cut(beyond[0])} exceeds float16, and the dtype used for serving is unknown: {why}")


def _updates(case: Case) -> dict[str, float]:
    """An upper bound of the root mean square of each module's update, if its scale is known and both were measured."""
    stats, scales, found = case.evidence.stats, case.application.scales, dict[str, float]()
    for module, pair in case.adapter.pairs.items():
        d_in, d_out = pair.widths
        norms = [one.norm for factor in pair.factors if (one := stats.get(factor.name)) and not math.isnan(one.norm)]
        if module in scales and d_in and d_out and len(norms) == 2:
            found[module] = abs(scales[module].scaling) / math.sqrt(d_in * d_out) * norms[0] * norms[1]
    return found


@check("LC504", "huge-update", "config", "weights", "values",
       hint="check lora_alpha, use_rslora and how it was trained; use an earlier checkpoint")  # fmt: skip
def huge_update(case: Case) -> Problems:
    """The update ``s * B @ A`` of a module may be larger than any base's weights, or far larger than all others.

    The training diverged, or the scaling is not the one it was trained with: the output is noise. The bound
    ``|s| * norm(B) * norm(A)``, spread over the elements of the update, is compared with 10 (a base's weights have a
    root mean square of 0.01 to 0.05), and with the median of the modules.
    """
    updates = _updates(case)
    usual = sorted(updates.values())[len(updates) // 2] if len(updates) >= FEWEST else 0.0
    huge = {module: size for module, size in updates.items() if size > HUGE or (usual and size > OUTLIER * usual)}
    if huge:
        worst_first = sorted(huge, key=lambda module: -huge[module])
        beside = f", {huge[worst_first[0]] / usual:.3g} times the median" if usual else ""
        has = f"may have a root mean square of {huge[worst_first[0]]:.3g}{beside}"
        message = f"the update of {counted(len(huge), 'module')} {has}: {names(worst_first)}"
        yield Problem(message, case.in_weights(worst_first[0]))


@check("LC505", "negligible-update", "config", "weights", "values", floor=Severity.ERROR,
       hint="check lora_alpha and the learning rate; save it after training")  # fmt: skip
def negligible_update(case: Case) -> Problems:
    """The update ``s * B @ A`` is too small in every module to change the output: untrained, or scaled to nothing."""
    updates, stats = _updates(case), case.evidence.stats
    narrow = [name for name, one in stats.items() if math.isnan(one.norm) and one.largest != math.inf]
    if narrow and not updates:
        yield NotChecked(f"the size of an update in {case.adapter.tensors[narrow[0]].dtype} is unknown")
    if updates and 0 < max(updates.values()) < NEGLIGIBLE and not _has_other_tensors(case):
        first = max(updates, key=lambda module: updates[module])
        size = f"the largest update has a root mean square of at most {updates[first]:.3g}"
        yield Problem(f"{size}, but trained adapters have more than 5e-05", case.in_weights(first))


@check("LC506", "untrained-part", "weights", "values", floor=Severity.NOTE,
       hint="remove them from target_modules, or train them")  # fmt: skip
def untrained_part(case: Case) -> Problems:
    """B is zero in some modules, and not in the others.

    Training did not reach these modules, as an encoder whose inputs have no gradient under gradient checkpointing
    (``enable_input_require_grads()``). Experts are ignored, because a router may never select one.
    """
    pairs, stats = case.adapter.pairs.items(), case.evidence.stats
    of_b = ((m, stats.get(pair.b.name)) for m, pair in pairs if pair.b is not None and ".experts." not in f".{m}.")
    zero = {module: found.largest == 0 for module, found in of_b if found is not None}
    untrained = [module for module, is_zero in zero.items() if is_zero]
    if untrained and len(untrained) < len(zero):
        message = f"B is zero in {len(untrained)} of {counted(len(zero), 'module')}: {names(untrained)}"
        yield Problem(message, case.in_weights(untrained[0]))
