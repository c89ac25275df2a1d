"""LC30x, LC310, LC318, LC319: the tensors alone and compared with the config, without a base."""

from collections.abc import Callable

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.names import PAIR_PARTS, last_name
from lora_cli.checks.case import Case, On
from lora_cli.checks.check import CRASHES, OK, REJECTS, WRONG, Problems, check, grouped, shape
from lora_cli.engines import packed_in
from lora_cli.engines.name_resolution import named_alike
from lora_cli.finding import Effects, Outcome, Problem
from lora_cli.peft.match import DEFAULT_NAME, dropped_for
from lora_cli.text import counted, cut, names

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
WHOLE = frozenset({"BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"})
VARIANTS = (
    ("use_dora", "magnitude", "lora_magnitude_vector"),
    ("lora_bias", "lora_bias", "bias"),
    ("kasa_config", "diag", "lora_diag"),
)
"""Variants that give every module another tensor: the field, the part, and the tensor's name on disk."""
OTHER_TRAINED_PARTS = frozenset({"saved", "base_layer", "bias", "lora_bias", "magnitude", "diag", "trainable_tokens"})
REWRITE_NAMES = "`lora-cli repair` rewrites the names; or save the adapter again with PEFT, from the unwrapped model"
AS_FLOATS = "save the factors as bf16, f16 or f32"


@check("LC301", "rank-mismatch", "config", "weights", peft=REJECTS, vllm=WRONG, sglang=CRASHES,
       hint="write the tensors' rank into r or rank_pattern of the config")  # fmt: skip
def rank_mismatch(case: Case) -> Problems:
    """The rank in the config is not the rank that the tensors have.

    PEFT refuses it. vLLM uses the tensors and scales them by ``lora_alpha / r`` with the config's ``r``, so the adapter
    is applied too strongly or too weakly, silently.
    """
    messages = []
    for module, wanted in case.application.ranks.items():
        rank = case.application.adapter.pairs[module].rank
        if rank is not None and rank != wanted:
            messages.append((f"the rank is {wanted} in the config, but {rank} in the tensors", module))
    yield from grouped(messages, case.weights_file, "module")


@check("LC302", "pair-incomplete", "weights", peft=WRONG, vllm=REJECTS, sglang=CRASHES,
       hint="a part of the adapter is missing: save or convert it again",
       evidence={"vllm": "lora/model_manager.py (run)"})  # fmt: skip
def pair_incomplete(case: Case) -> Problems:
    """A module has A without B, or B without A.

    The update is the product of both. PEFT leaves the missing one as it was initialised, with a log line; vLLM fails,
    or, where A of q, k, v, gate or up is missing, leaves that part of the packed module at zero.
    """
    found: dict[Outcome, list[tuple[str, str]]] = {}
    for pair in case.adapter.pairs.values():
        if pair.a is None or pair.b is None:
            has, lacks = ("A", "B") if pair.b is None else ("B", "A")
            vllm = WRONG if pair.b is not None and packed_in(last_name(pair.module)) else REJECTS
            found.setdefault(vllm, []).append((f"there is lora_{has} without its lora_{lacks}", pair.module))
    for vllm, messages in found.items():
        yield from grouped(messages, case.weights_file, "module", effects={"vllm": vllm})


@check("LC303", "name-form", "weights", peft=WRONG, vllm=REJECTS, hint=REWRITE_NAMES,
       evidence={"vllm": "lora/utils.py (run)", "sglang": "lora/lora.py (reasoned)"})  # fmt: skip
def name_form(case: Case, on: On) -> Problems:
    """Tensor names are not in PEFT's form: a prefix is missing or doubled, a wrapper added one, or two names mean one.

    PEFT looks up exact names and silently drops those it does not find: the adapter then does nothing. Of two names for
    one factor (``lora_A.weight`` and ``lora_A.default.weight``) only one is used. Engines differ in which forms they
    accept: vLLM refuses the adapter's name in memory.
    """
    reasons = [(dropped_for(key), key) for key in case.application.adapter.keys.values() if key.part != "unknown"]
    once = {(key.module, key.part) for reason, key in reasons if key.canonical}
    messages = [(f"{reason}; PEFT drops the tensor", key.name) for reason, key in reasons if reason]
    messages += [
        ("another tensor is the same factor under PEFT's own name; only one of them is used", key.name)
        for reason, key in reasons
        if not reason and not key.canonical and key.part in PAIR_PARTS and (key.module, key.part) in once
    ]
    effect = WRONG
    if on.name != "peft":
        misnamed = (key for key in case.adapter.keys.values() if key.adapter_name and dropped_for(key))
        refused = not on.profile.engine.by_layer and any(key.part in PAIR_PARTS | {"lora_bias"} for key in misnamed)
        # Of a base that is known, another check says which modules are found under such names.
        wrapped = case.base is None and not on.profile.engine.by_layer and any(key.infixes for _, key in reasons)
        effect = REJECTS if refused else WRONG if wrapped or named_alike(case.adapter, on.profile) else OK
    yield from grouped(messages, case.weights_file, "tensor", effects={on.name: effect})


@check("LC304", "adapter-name-infix", "weights", vllm=REJECTS, hint=REWRITE_NAMES,
       evidence={"vllm": "lora/utils.py (run)"})  # fmt: skip
def adapter_name_infix(case: Case) -> Problems:
    """Tensor names contain PEFT's in-memory adapter name: ``lora_A.default.weight``.

    PEFT only loads them if its adapter is also called ``default``; vLLM refuses the whole adapter. They come from
    ``state_dict()``; ``save_pretrained()`` leaves the name out.
    """
    messages = [
        (f"the name contains .{DEFAULT_NAME}.; PEFT accepts it, vLLM refuses it", key.name)
        for key in case.application.adapter.keys.values()
        if key.adapter_name == DEFAULT_NAME and not dropped_for(key)
    ]
    yield from grouped(messages, case.weights_file, "tensor")


@check("LC305", "name-unknown", "weights", peft=WRONG, vllm=REJECTS,
       hint="save it with PEFT, or convert it to PEFT's names", evidence={"vllm": "lora/utils.py (run)"})  # fmt: skip
def name_unknown(case: Case) -> Problems:
    """A tensor's name is not one of a LoRA adapter.

    PEFT drops it silently, vLLM refuses the whole adapter because of it.
    """
    unknown = [key.name for key in case.adapter.keys.values() if key.part == "unknown"]
    message = "the name is not one that PEFT writes for LoRA"
    yield from grouped(((message, name) for name in unknown), case.weights_file, "tensor")


@check("LC306", "factor-shape", "weights", peft=REJECTS, vllm=REJECTS, sglang=CRASHES,
       hint="gather the parameters before saving (ZeRO-3, FSDP)",
       evidence={"vllm": "lora/layers/base_linear.py (run)"})  # fmt: skip
def factor_shape(case: Case) -> Problems:
    """A or B is not a matrix with at least one row and column, or the two do not have the same rank.

    There is no product ``B @ A``. Empty and flat tensors are what ZeRO-3 and FSDP save when the parameters were not
    gathered first; vLLM serves what has two dimensions.
    """
    experts, found = shared_experts(case.adapter), list[tuple[Effects, str, str]]()
    for pair in case.adapter.pairs.values():
        flat = [(part, one) for part, one in pair.named.items() if len(one.shape) != 2 or 0 in one.shape]
        for part, one in flat:
            effects: Effects = {"vllm": OK, "sglang": OK} if pair.module in experts else {}
            effects = {"vllm": WRONG} if len(one.shape) == 2 else effects
            found.append((effects, f"{part} has the shape {shape(one.shape)}, but must be a matrix", pair.module))
        if pair.a and pair.b and not flat and not case.unserved_variant and pair.a.shape[0] != pair.b.shape[1]:
            message = f"lora_A {shape(pair.a.shape)} and lora_B {shape(pair.b.shape)} do not have the same rank"
            found.append(({"vllm": WRONG}, message, pair.module))
    for own in ({}, {"vllm": WRONG}, {"vllm": OK, "sglang": OK}):
        yield from grouped([told[1:] for told in found if told[0] == own], case.weights_file, "module", effects=own)


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

    PEFT builds layers where the config says so and drops all other tensors silently; vLLM uses the tensors. The same
    files are two different adapters. ``layers_to_transform`` and ``exclude_modules`` count, too.
    """
    message = "the config does not target the module; PEFT drops its tensors"
    yield from grouped(((message, name) for name in case.application.untargeted), case.config.file, "module")


@check("LC308", "no-lora-tensors", "weights", peft=WRONG, vllm=REJECTS,
       hint="use the adapter's own weights; serve a merged model as a model, not as an adapter")  # fmt: skip
def no_lora_tensors(case: Case) -> Problems:
    """The weights file contains no A and no B.

    It loads but changes nothing: it may be a merged model, another PEFT method, or empty.
    """
    if not case.adapter.pairs:
        found = list(case.adapter.tensors)
        what = f", but no lora_A or lora_B: {names(found)}" if found else ""
        yield Problem(f"the file contains {counted(len(found), 'tensor')}{what}", case.in_weights())


@check("LC309", "factor-dtype", "weights", peft=WRONG, hint=AS_FLOATS)
def factor_dtype(case: Case) -> Problems:
    """A, B or another trained tensor is stored as integers or booleans.

    They are quantised, but their scales are missing. PEFT and vLLM cast the raw numbers to the model's dtype: the
    update is off by orders of magnitude.
    """
    yield from _stored_as(case, lambda dtype: dtype in WHOLE)


@check("LC318", "narrow-factor", "weights", hint=AS_FLOATS)
def narrow_factor(case: Case) -> Problems:
    """A, B or another trained tensor is stored in a floating-point type of 8 bits or less.

    Such types need scales, which are missing; the raw numbers have at most three bits of precision.
    """
    yield from _stored_as(case, lambda dtype: dtype not in FLOATS | WHOLE)


def _stored_as(case: Case, is_meant: Callable[[str], bool]) -> Problems:
    factors = (
        (part, one.dtype, pair.module) for pair in case.adapter.pairs.values() for part, one in pair.named.items()
    )
    others = (
        (key.param or key.part, case.adapter.tensors[name].dtype, key.module)
        for name, key in case.adapter.keys.items()
        if key.part in OTHER_TRAINED_PARTS and key.param in {"", "weight", "bias"}
    )
    messages = [(f"{part} is stored as {dtype}", name) for part, dtype, name in (*factors, *others) if is_meant(dtype)]
    yield from grouped(messages, case.weights_file, "module")


@check("LC310", "variant-incomplete", "config", "weights", peft=WRONG, vllm=OK,
       hint="set the field as in training, or save the adapter again")  # fmt: skip
def variant_incomplete(case: Case) -> Problems:
    """The config enables DoRA, KaSA or a bias on lora_B but a module has no tensor for it, or the other way round.

    PEFT silently leaves missing tensors as initialised and drops those that are not enabled: the adapter is not the one
    that was trained.
    """
    config = case.config
    messages = []
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


@check("LC319", "tower-collision", "weights", sglang=WRONG,
       hint="train the language model alone, or use an engine that uses full names",
       evidence={"sglang": "lora/lora.py (run)"})  # fmt: skip
def tower_collision(case: Case, on: On) -> Problems:
    """A layer number and a module name match two modules: one in the language model, one in a tower.

    ``target_modules: [q_proj]`` matches the vision tower's and the language model's, and both have a layer 0. PEFT
    distinguishes them. SGLang only uses the number of the layer: one silently overwrites the other, and weights trained
    for images are used for text. The encoder and the decoder of one model (Whisper, BART) are SGLang's problem alone.
    """
    effects: Effects = {"sglang": WRONG if on.placed.collisions else OK}
    stacks = dict.fromkeys(module.partition(".layers.")[0] for module in case.adapter.pairs if ".layers." in module)
    if len(stacks) < 2 or {last_name(stack) for stack in stacks} == {"encoder", "decoder"}:
        if on.placed.collisions:
            message = f"two modules have the same layer and last name: {names(on.placed.collisions)}"
            yield Problem(message, case.in_weights(on.placed.collisions[0]), effects=effects)
        return
    owner: dict[str, str] = {}
    messages = []
    for module in case.application.adapter.pairs:
        stack, _, within = module.partition(".layers.")
        if within and owner.setdefault(within, stack) != stack:
            messages.append(
                (f"layers of {cut(owner[within])} and of {cut(stack)} have modules with the same names", within)
            )
    yield from grouped(messages, case.weights_file, "module", effects=effects)
