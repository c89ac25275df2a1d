"""LC30x: the tensors alone and compared with the config, without a base."""

from collections.abc import Callable, Iterator

from lora_cli.adapter.names import PAIR_PARTS, last_name
from lora_cli.finding import Problem, Severity
from lora_cli.peft.match import DEFAULT_NAME, dropped_for
from lora_cli.rules.rule import Case, grouped, rule, shape
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
ADD_TARGETS = "add them to target_modules, if they were trained"


@rule("LC301", "rank-mismatch", Severity.ERROR, needs=("config", "weights"))
def rank_mismatch(case: Case) -> Iterator[Problem]:
    """The rank in the config is not the rank that the tensors have.

    *Why is this bad?* PEFT refuses it. vLLM uses the tensors and scales them by ``lora_alpha / r`` with the config's
    ``r``, so the adapter is applied too strongly or too weakly, silently.

    *Fix*: write the tensors' rank into ``r`` (or ``rank_pattern``), unless the file belongs to another adapter.
    """
    messages = []
    for module, wanted in case.application.ranks.items():
        rank = case.application.adapter.pairs[module].rank
        if rank is not None and rank != wanted:
            messages.append((f"the rank is {wanted} in the config, but {rank} in the tensors", module))
    yield from grouped(
        messages, case.weights_file, "module", "write the tensors' rank into r or rank_pattern of the config"
    )


@rule("LC302", "pair-incomplete", Severity.ERROR, needs=("weights",))
def pair_incomplete(case: Case) -> Iterator[Problem]:
    """A module has A without B, or B without A.

    *Why is this bad?* The update is the product of both. PEFT leaves the missing one as it was initialised, with a
    log line; vLLM fails, or inside a fused group leaves that slice at zero.

    *Fix*: save the adapter again; if it was sharded or converted, a part is missing.
    """
    messages = []
    for pair in case.adapter.pairs.values():
        if pair.a is None or pair.b is None:
            has, lacks = ("A", "B") if pair.b is None else ("B", "A")
            messages.append((f"there is lora_{has} without its lora_{lacks}", pair.module))
    yield from grouped(
        messages, case.weights_file, "module", "a part of the adapter is missing: save or convert it again"
    )


@rule("LC303", "name-form", Severity.ERROR, needs=("weights",))
def name_form(case: Case) -> Iterator[Problem]:
    """Tensor names are not in PEFT's form: a prefix is missing or doubled, a wrapper added one, or two names mean one.

    *Why is this bad?* PEFT looks up exact names and silently drops those it does not find: the adapter
    then does nothing. Engines differ in which of these forms they accept. Of two names for one factor
    (``lora_A.weight`` and ``lora_A.default.weight``) PEFT keeps one or the other.

    *Fix*: ``lora-cli repair`` rewrites the names; or save the adapter again from the unwrapped model
    (``model.module``, ``model._orig_mod``).
    """
    reasons = [(dropped_for(key), key) for key in case.application.adapter.keys.values() if key.part != "unknown"]
    messages = [(f"{reason}; PEFT drops the tensor", key.name) for reason, key in reasons if reason]
    once = {(key.module, key.part) for reason, key in reasons if key.canonical}
    messages += [
        ("another tensor is the same factor under PEFT's own name; only one of them is used", key.name)
        for reason, key in reasons
        if not reason and not key.canonical and key.part in PAIR_PARTS and (key.module, key.part) in once
    ]
    yield from grouped(messages, case.weights_file, "tensor", REWRITE_NAMES)


@rule("LC304", "adapter-name-infix", Severity.WARNING, needs=("weights",))
def adapter_name_infix(case: Case) -> Iterator[Problem]:
    """Tensor names contain PEFT's in-memory adapter name: ``lora_A.default.weight``.

    *Why is this bad?* PEFT only loads them if its adapter is also called ``default``; vLLM refuses the whole
    adapter.

    *Fix*: ``lora-cli repair`` rewrites the names; or save with ``save_pretrained()``, not ``state_dict()``, which
    keeps these names.
    """
    messages = [
        (f"the name contains .{DEFAULT_NAME}.; PEFT accepts it, vLLM refuses it", key.name)
        for key in case.application.adapter.keys.values()
        if key.adapter_name == DEFAULT_NAME and not dropped_for(key)
    ]
    yield from grouped(messages, case.weights_file, "tensor", REWRITE_NAMES)


@rule("LC305", "name-unknown", Severity.ERROR, needs=("weights",))
def name_unknown(case: Case) -> Iterator[Problem]:
    """A tensor's name is not one of a LoRA adapter.

    *Why is this bad?* PEFT drops it silently, vLLM refuses the whole adapter because of it.

    *Fix*: save the adapter again with PEFT; other trainers' formats must be converted.
    """
    messages = [
        ("the name is not one that PEFT writes for LoRA", key.name)
        for key in case.adapter.keys.values()
        if key.part == "unknown"
    ]
    yield from grouped(messages, case.weights_file, "tensor", "save it with PEFT, or convert it to PEFT's names")


@rule("LC306", "factor-shape", Severity.ERROR, needs=("weights",))
def factor_shape(case: Case) -> Iterator[Problem]:
    """A or B is not a matrix with at least one row and column, or the two do not have the same rank.

    *Why is this bad?* There is no product ``B @ A``. Empty and flat tensors are what ZeRO-3 and FSDP save when the
    parameters were not gathered first.

    *Fix*: gather the parameters before saving; take both factors from the same checkpoint.
    """
    messages = []
    for pair in case.adapter.pairs.values():
        flat = [(part, one) for part, one in pair.named.items() if len(one.shape) != 2 or 0 in one.shape]
        messages += [
            (f"{part} has the shape {shape(one.shape)}, but must be a matrix", pair.module) for part, one in flat
        ]
        if pair.a is None or pair.b is None or flat or case.unserved_variant:
            continue
        if pair.a.shape[0] != pair.b.shape[1]:
            message = f"lora_A {shape(pair.a.shape)} and lora_B {shape(pair.b.shape)} do not have the same rank"
            messages.append((message, pair.module))
    yield from grouped(messages, case.weights_file, "module", "gather the parameters before saving (ZeRO-3, FSDP)")


@rule("LC307", "untargeted-tensors", Severity.ERROR, needs=("config", "weights"))
def untargeted_tensors(case: Case) -> Iterator[Problem]:
    """The weights contain modules that the config does not target.

    *Why is this bad?* PEFT builds layers where the config says so and drops all other tensors silently; vLLM
    uses the tensors. The same files are two different adapters.

    *Fix*: list the modules in ``target_modules`` (check ``layers_to_transform`` and ``exclude_modules``).
    """
    config = case.config
    messages = [
        ("the config does not target the module; PEFT drops its tensors", name) for name in case.application.untargeted
    ]
    yield from grouped(messages, config.file, "module", ADD_TARGETS)


@rule("LC308", "no-lora-tensors", Severity.ERROR, needs=("weights",))
def no_lora_tensors(case: Case) -> Iterator[Problem]:
    """The weights file contains no A and no B.

    *Why is this bad?* It loads but changes nothing: it may be a merged model, another PEFT method, or empty.

    *Fix*: use the adapter's own weights.
    """
    if case.adapter.pairs:
        return
    found = list(case.adapter.tensors)
    what = f", but no lora_A or lora_B: {names(found)}" if found else ""
    yield Problem(
        f"the file contains {counted(len(found), 'tensor')}{what}",
        case.in_weights(),
        "use the adapter's own weights; serve a merged model as a model, not as an adapter",
    )


@rule("LC309", "factor-dtype", Severity.ERROR, needs=("weights",))
def factor_dtype(case: Case) -> Iterator[Problem]:
    """A, B or another trained tensor is stored as integers or booleans.

    *Why is this bad?* They are quantised, but their scales are missing. PEFT and vLLM cast the
    raw numbers to the model's dtype: the update is off by orders of magnitude.

    *Fix*: save the factors as bf16, f16 or f32.
    """
    yield from _dtype_problems(case, lambda dtype: dtype in WHOLE)


def _dtype_problems(case: Case, is_meant: Callable[[str], bool]) -> Iterator[Problem]:
    messages = [
        (f"{part} is stored as {one.dtype}", pair.module)
        for pair in case.adapter.pairs.values()
        for part, one in pair.named.items()
        if is_meant(one.dtype)
    ]
    for name, key in case.adapter.keys.items():
        if (
            key.part in OTHER_TRAINED_PARTS
            and key.param in {"", "weight", "bias"}
            and is_meant(case.adapter.tensors[name].dtype)
        ):
            messages.append((f"{key.param or key.part} is stored as {case.adapter.tensors[name].dtype}", key.module))
    yield from grouped(messages, case.weights_file, "module", "save the factors as bf16, f16 or f32")


@rule("LC318", "narrow-factor", Severity.WARNING, needs=("weights",))
def narrow_factor(case: Case) -> Iterator[Problem]:
    """A, B or another trained tensor is stored in a floating-point type of 8 bits or less.

    *Why is this bad?* Such types need scales, which are missing; PEFT and vLLM cast the raw numbers, which have
    at most three bits of precision.

    *Fix*: save the factors as bf16, f16 or f32.
    """
    yield from _dtype_problems(case, lambda dtype: dtype not in FLOATS | WHOLE)


@rule("LC310", "variant-incomplete", Severity.ERROR, needs=("config", "weights"))
def variant_incomplete(case: Case) -> Iterator[Problem]:
    """The config enables DoRA, KaSA or a bias on lora_B but a module has no tensor for it, or the other way round.

    *Why is this bad?* PEFT silently leaves missing tensors as initialised and drops those that are not
    enabled: the adapter is not the one that was trained.

    *Fix*: set ``use_dora``, ``kasa_config`` and ``lora_bias`` as in training, and save the adapter again if tensors are
    missing.
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
    yield from grouped(
        sorted(messages), case.weights_file, "module", "set the field as in training, or save the adapter again"
    )


@rule("LC319", "tower-collision", Severity.WARNING, needs=("weights",))
def tower_collision(case: Case) -> Iterator[Problem]:
    """A layer number and a module name match two modules: one in the language model, one in a tower.

    ``target_modules: [q_proj]`` matches the vision tower's and the language model's, and both have a layer 0. The
    encoder and the decoder of one model (Whisper, BART) are not reported.

    *Why is this bad?* PEFT distinguishes them. SGLang only uses the number of the layer: one silently overwrites the
    other, and weights trained for images are used for text.

    *Fix*: train the language model alone (a regular expression in ``target_modules``, or ``exclude_modules``), or serve
    with an engine that uses full names.
    """
    stacks = dict.fromkeys(module.partition(".layers.")[0] for module in case.adapter.pairs if ".layers." in module)
    if len(stacks) < 2 or {last_name(stack) for stack in stacks} == {"encoder", "decoder"}:
        return
    owner: dict[str, str] = {}
    messages = []
    for module in case.application.adapter.pairs:
        stack, _, within = module.partition(".layers.")
        if within and owner.setdefault(within, stack) != stack:
            messages.append(
                (f"layers of {cut(owner[within])} and of {cut(stack)} have modules with the same names", within)
            )
    yield from grouped(
        messages, case.weights_file, "module", "train the language model alone, or use an engine that uses full names"
    )
