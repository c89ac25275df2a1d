"""LC30x, LC310: the tensors alone and compared with the config, without a base."""

from lora_cli.adapter.adapter import PAIR_PARTS, Adapter, last_name
from lora_cli.checks.case import Case, On
from lora_cli.checks.check import CRASHES, OK, REJECTS, WRONG, Problems, check, grouped, shape
from lora_cli.engines import packed_in
from lora_cli.engines.name_resolution import named_alike
from lora_cli.finding import Outcome, Problem
from lora_cli.peft.match import DEFAULT_NAME, dropped_for
from lora_cli.text import counted, names

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
VARIANTS = (
    ("use_dora", "magnitude", "lora_magnitude_vector"),
    ("lora_bias", "lora_bias", "bias"),
    ("kasa_config", "diag", "lora_diag"),
)
"""Variants that give every module another tensor: the field, the part, and the tensor's name on disk."""
TRAINED = PAIR_PARTS | {"saved", "base_layer", "bias", "lora_bias", "magnitude", "diag", "trainable_tokens"}
NOBODY = {"peft": OK, "vllm": OK, "sglang": OK}


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
        odd = {part: one.shape for part, one in pair.named.items() if len(one.shape) != 2 or 0 in one.shape}
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
    for effects, is_whole in (({}, True), (NOBODY, False)):
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
