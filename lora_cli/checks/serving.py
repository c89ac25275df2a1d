"""LC4xx: what only engines mind, and the limits that they are started with."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from lora_cli.adapter.adapter import LoraPair
from lora_cli.adapter.config import raw_value
from lora_cli.adapter.names import WRAPPER, Key, last_name
from lora_cli.base.base_model import OTHER_BASE, UNKNOWN_FAMILY
from lora_cli.checks.case import Case, On
from lora_cli.checks.check import CRASHES, MERGE, OK, REJECTS, SAVE_AGAIN, UNKNOWN, WRONG, Problems, check
from lora_cli.checks.config import CHANGES_BASE, INIT
from lora_cli.checks.tensors import shared_experts
from lora_cli.engines import PACKED, VOCABULARY, packed_in
from lora_cli.engines.name_resolution import COPIED, HEADS
from lora_cli.finding import Effect, Effects, Location, Problem, Severity
from lora_cli.peft.match import highest_rank, is_fused
from lora_cli.peft.targets import ALL_LINEAR
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.text import counted, cut, names, shown

serving = partial(check, floor=None)
"""A check that is not reported where no engine minds."""

PEFT_HELPER, UTILS, MANAGER = "lora/peft_helper.py (run)", "lora/utils.py (run)", "lora/model_manager.py"
"""Files of vLLM that several effects were read in."""

FOLD = "`lora-cli repair --engine {engine}` folds the scales into lora_B"
PAD = "`lora-cli repair --engine sglang` pads them to the same rank"
UNCHANGED = "convert it with PEFT's path_initial_model_for_weight_conversion, which leaves the base unchanged"

UNTIL_0_31: Effect = {"0.31": WRONG, "": REJECTS}
"""What vLLM ignored until 0.31, and refuses since."""

VARIANTS: Mapping[str, Effects] = {
    "layer_replication": {"vllm": UNTIL_0_31, "sglang": WRONG},
    "use_bdlora": {"vllm": UNTIL_0_31, "sglang": CRASHES},
    "use_qalora": {"vllm": UNTIL_0_31, "sglang": CRASHES},
    "arrow_config": {"vllm": WRONG, "sglang": WRONG},
}
"""Fields of variants of LoRA that no engine serves, and what they do with them."""

QKV, GATE_UP = frozenset(PACKED["qkv_proj"]), frozenset(PACKED["gate_up_proj"])

CLASSES_OF = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    None: "ForSequenceClassification",
}
"""Ends of the names of the classes for PEFT's tasks with a classification head; without a task it may be such a one."""

DIFFUSION = frozenset(
    {"down_blocks", "mid_block", "up_blocks", "unet", "transformer_blocks", "single_transformer_blocks"}
)
"""First components of module names in the models of diffusers."""

NOT_FOR_TEXT = (
    r"(?:Image|Video|Audio)\w*Classification|CTC|(?:Zero\w+)?ObjectDetection|\w*Segmentation|DepthEstimation"
    r"|MaskedImageModeling|AudioFrameClassification|XVector|QuestionAnswering|MultipleChoice|NextSentencePrediction"
)
"""Ends of the names of classes in transformers that no engine here has: for images, for sound, and some for text."""

GENERATORS = r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|^PeftModel\w*)$"
"""Classes of transformers and PEFT that engines for language models may serve."""

ROOTS = frozenset({"model", "language_model", "lm_head", "thinker"})
"""First components of module names in the classes for text generation that engines put LoRA on."""


@check("LC401", "rank-above-max", "config", vllm=REJECTS, sglang=REJECTS, floor=Severity.ERROR,
       evidence={"vllm": PEFT_HELPER, "sglang": "lora/lora_manager.py (read)"})  # fmt: skip
def rank_above_max(case: Case, on: On) -> Problems:
    """A module's rank is above the ``max_lora_rank`` that the engine is started with.

    The engine's buffers have that many rows: vLLM and SGLang refuse the adapter at load. For a named engine the limit
    is its default unless one is set; without an engine, it is only checked if one is set.

    *Fix*: start the engine with a larger ``max_lora_rank``, or train with a smaller rank.
    """
    engine, given, known = on.profile.engine, case.deployment.max_lora_rank, highest_rank(case.adapter)
    limit = given if given is not None else engine.default_rank
    if limit is None or known is None or (on.asked and on.name == "peft"):
        return
    where, highest, at = known
    if highest > limit:
        allowed = next((rank for rank in engine.ranks if rank >= highest), None if engine.ranks else highest)
        title = engine.title if on.asked else "the engine"
        hint = f"start {title} with `--max-lora-rank {allowed}`"
        if allowed is None:
            hint = f"it supports ranks up to {max(engine.ranks)}: train with a smaller rank"
        whose = "" if given is not None else f", the default of {engine.title}"
        yield Problem(f"the rank is {highest} ({cut(where)}), but --max-lora-rank is {limit}{whose}", at, hint)
    if on.name == "vllm":
        pairs = ((module, pair) for module, pair in case.adapter.pairs.items() if pair.b and not pair.embedding)
        wide = (m for m, pair in pairs if pair.b and len(pair.b.shape) == 2 and pair.rank != pair.b.shape[1] > limit)
        yield from _counted(case, f"lora_B has more than the {limit} columns of a slot", wide, SAVE_AGAIN)


@serving("LC405", "engine-unproven", peft=UNKNOWN,
         hint="see `lora-cli engines {engine}` for known behaviour; test the adapter on the engine itself")  # fmt: skip
def engine_unproven(case: Case, on: On) -> Problems:
    """What an engine named with ``--engine`` does is not established: for its version, that base or the adapter.

    A version older than all known ones is validated as the oldest one, which may behave differently. A base of an
    unknown family may be one that the engine does not serve at all.
    """
    base = case.base
    if not on.profile.proven:
        yield Problem(on.profile.note, case.in_weights())
    if on.name == "peft":
        return
    if base is not None and base.model_type != UNKNOWN_FAMILY:
        if not on.profile.engine.is_known(base):
            message = f"its LoRA support for bases of the family {cut(base.model_type)} is unknown"
            yield Problem(message, case.in_weights())
    elif sign := _sign_of_other_model(case):
        lacking = "a base" if base is None else "the base's family"
        yield Problem(f"without {lacking} it is unknown whether it serves the adapter: {sign}", case.in_weights())


def _sign_of_other_model(case: Case) -> str:
    """Why the adapter may not be for a language model that engines serve; empty if there is no sign of that."""
    config = case.adapter.config
    named = config.base_class if config is not None else ""
    if named and not re.search(GENERATORS, named):
        return f"auto_mapping names {cut(named)}"
    if config is not None and config.task_type not in {None, "CAUSAL_LM"}:
        return f"task_type is {cut(str(config.task_type))}"
    pairs = case.adapter.pairs
    if strange := next((one for one in pairs if one.partition(".")[0] not in ROOTS or ".encoder." in one), ""):
        return f"there is a module {cut(strange)}"
    head = next((key.name for key in case.other_keys if is_saved(key) and last_name(key.module) in HEADS), "")
    return f"there is a classification head, {cut(head)}" if head else ""


def _set(case: Case, name: str, effects: Effects | None = None) -> Iterator[Problem]:
    """A field that is enabled; an empty list or object does not enable one."""
    if value := raw_value(case.config, name):
        yield Problem(f"{name} is {shown(value)}", case.in_config(name), effects=effects or {})


def _tensors(case: Case, noun: str, is_meant: Callable[[Key], bool], hint: str = "", **effects: Effect) -> Problems:
    """Tensors that are not factors, by their names."""
    found = [key.name for key in case.other_keys if is_meant(key)]
    if found:
        message = f"there {'is' if len(found) == 1 else 'are'} {counted(len(found), noun)}: {names(found, 2)}"
        yield Problem(message, case.in_weights(found[0]), hint, effects)


def _counted(case: Case, message: str, modules: Iterable[str], hint: str = "", **effects: Effect) -> Problems:
    """One problem for all ``modules``, with the first one and their number."""
    found = list(modules)
    if found:
        more = f" ({counted(len(found), 'module')})" if len(found) > 1 else ""
        yield Problem(f"{message}: {cut(found[0])}{more}", case.in_weights(found[0]), hint, effects)


@serving("LC420", "dora", "config", vllm=REJECTS, sglang=REJECTS, hint=MERGE,
         evidence={"vllm": PEFT_HELPER, "sglang": "lora/lora.py (read)"})  # fmt: skip
def dora(case: Case) -> Problems:
    """DoRA (``use_dora``): engines have no magnitudes."""
    yield from _set(case, "use_dora")


@serving("LC421", "trained-biases", "config", vllm=REJECTS, sglang=WRONG, hint=MERGE,
         evidence={"vllm": PEFT_HELPER, "sglang": "lora/mem_pool.py (read)"})  # fmt: skip
def trained_biases(case: Case) -> Problems:
    """Trained biases of the base's layers (``bias``): vLLM refuses them, SGLang does not read them."""
    value = raw_value(case.config, "bias")
    if isinstance(value, str) and value != "none":
        yield Problem(f"bias is {shown(value)}", case.in_config("bias"))


@serving("LC422", "lora-bias", "config", vllm=UNTIL_0_31, sglang=WRONG, hint=MERGE,
         evidence={"vllm": "lora/peft_helper.py, lora/utils.py (run)",
                   "sglang": "lora/lora_config.py (run)"})  # fmt: skip
def lora_bias(case: Case) -> Problems:
    """A bias on ``lora_B`` (``lora_bias``).

    vLLM refuses it; until 0.31 the weight that followed it silently overwrote it. SGLang does not read it.
    """
    if raw_value(case.config, "lora_bias"):
        yield from _set(case, "lora_bias")
    else:
        yield from _tensors(case, "bias of lora_B", lambda key: key.part == "lora_bias")


@serving("LC423", "rslora", "config", sglang=WRONG,
         hint="`lora-cli repair --engine sglang` folds rsLoRA into lora_alpha",
         evidence={"sglang": "lora/lora_config.py (run)"})  # fmt: skip
def rslora(case: Case) -> Problems:
    """RsLoRA (``use_rslora``) with a rank above 1.

    SGLang divides ``lora_alpha`` by ``r``, but rsLoRA divides it by the square root of ``r``.
    """
    config = case.config
    if config.use_rslora and config.r > 1:
        right, wrong = config.lora_alpha / config.r**0.5, config.lora_alpha / config.r
        message = f"use_rslora is true: the scale is {right:.4g}, but {wrong:.4g} without it"
        yield Problem(message, case.in_config("use_rslora"))


@serving("LC424", "module-scales", "config", vllm={"0.31": WRONG, "": OK}, sglang=WRONG,
         hint=f"{FOLD}; vLLM reads the patterns since 0.32",
         evidence={"vllm": PEFT_HELPER, "sglang": "lora/lora_config.py (run)"})  # fmt: skip
def module_scales(case: Case) -> Problems:
    """A module has another scale than the config's, because of ``rank_pattern`` or ``alpha_pattern``.

    SGLang, and vLLM until 0.31, do not read them: all modules have the same scale.
    """
    config, by_module = case.config, case.application.scales
    if not by_module:  # with a rank of 0 there is no scale
        return
    common = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    other = [module for module, scale in by_module.items() if abs(scale.scaling - common) > 1e-9 * abs(common)]
    if other:
        yield Problem(
            f"the scale of {cut(other[0])} is {by_module[other[0]].scaling:.4g}, and {common:.4g} without the "
            f"patterns, which are not read ({len(other)} of {len(by_module)} modules)",
            case.in_config("alpha_pattern" if config.alpha_pattern else "rank_pattern"),
        )


@serving("LC425", "init-changes-base", "config", peft=WRONG, vllm=UNTIL_0_31, sglang=WRONG, hint=UNCHANGED,
         evidence={"peft": "tuners/lora/layer.py (run)", "vllm": PEFT_HELPER,
                   "sglang": "lora/lora_config.py (run)"})  # fmt: skip
def init_changes_base(case: Case) -> Problems:
    """PiSSA, OLoRA, CorDA or LoftQ (``init_lora_weights``), which changed the base's weights in training.

    An engine has the base as it was before. PEFT decomposes it again on loading; by iterations (``pissa_niter_…``) it
    does so randomly, and differently from training.
    """
    value = raw_value(case.config, INIT)
    if isinstance(value, str) and re.fullmatch(CHANGES_BASE, value):
        is_random = value.startswith("pissa_niter_")
        yield Problem(f"{INIT} is {shown(value)}", case.in_config(INIT), effects={} if is_random else {"peft": OK})


@serving("LC426", "activated-lora", "config", vllm=UNTIL_0_31, sglang=WRONG, hint=MERGE,
         evidence={"vllm": PEFT_HELPER, "sglang": "lora/lora_config.py (run)"})  # fmt: skip
def activated_lora(case: Case) -> Problems:
    """Activated LoRA (``alora_invocation_tokens``): an engine that does not read the field always has it active."""
    yield from _set(case, "alora_invocation_tokens")


@serving("LC427", "unserved-variant", "config", vllm=REJECTS, sglang=CRASHES, hint=MERGE,
         evidence={"vllm": "lora/peft_helper.py, lora/utils.py (run)", "sglang": "lora/mem_pool.py (run)"})  # fmt: skip
def unserved_variant(case: Case) -> Problems:
    """A variant of LoRA that no engine serves: BD-LoRA, QALoRA, KaSA, MonteCLoRA, Arrow, replicated layers.

    Engines refuse it, fail on its tensors, or ignore the field and take what they find for plain factors.
    """
    for field, effects in VARIANTS.items():
        yield from _set(case, field, effects)
    yield from _tensors(case, "tensor of a variant", lambda key: key.part in {"diag", "variant"})


def is_saved(key: Key) -> bool:
    """Whether it is a whole parameter of the base; the biases of ``bias="all"`` are ``bias``'s."""
    return key.part == "saved" and (key.param != "bias" or last_name(key.module) in VOCABULARY | HEADS)


@serving("LC428", "saved-module", "config", "weights", vllm=REJECTS, sglang=CRASHES, hint=MERGE,
         evidence={"vllm": "lora/peft_helper.py, lora/utils.py (run)",
                   "sglang": "lora/lora.py, lora/mem_pool.py (run)"})  # fmt: skip
def saved_module(case: Case, on: On) -> Problems:
    """A module of the base that was trained and saved whole (``modules_to_save``): an embedding, a head, a norm.

    vLLM only supports ``score`` and ``classifier``, the heads of models for sequence classification (since 0.33 also
    for tokens, with as many labels as ``--max-lora-cls-labels``). SGLang drops embeddings and heads, and fails on a
    module in a layer.
    """
    others = [name for name in case.config.modules_to_save or () if name not in HEADS]
    if others and on.name == "vllm":
        yield Problem(f"modules_to_save has {names(others)}", case.in_config("modules_to_save"))
    for kind, sglang in (("vocabulary", WRONG), ("head", WRONG), ("other", CRASHES)):
        if kind == "head" and on.profile.takes_head(_class_of(case)):
            continue

        def is_meant(key: Key, kind: str = kind) -> bool:
            leaf = last_name(key.module)
            found = "vocabulary" if leaf in VOCABULARY else "head" if leaf in HEADS else "other"
            return is_saved(key) and found == kind

        if kind == "head" or on.name != "vllm" or not others:
            yield from _tensors(case, "saved weight", is_meant, sglang=sglang)


def _class_of(case: Case) -> str:
    """The class of the base, or the one that the config names, or the end of its name that the task has."""
    if case.base is not None:
        return case.base.architecture
    if case.config.base_class and not case.config.base_class.startswith("PeftModel"):
        return case.config.base_class
    return CLASSES_OF.get(case.config.task_type, "")


@serving("LC429", "trained-tokens", "weights", vllm=REJECTS, sglang=WRONG, hint=MERGE,
         evidence={"vllm": UTILS, "sglang": "lora/lora_config.py (run)"})  # fmt: skip
def trained_tokens(case: Case) -> Problems:
    """Trained rows of an embedding (``trainable_token_indices``), which are not factors: SGLang does not read them."""
    yield from _tensors(case, "tensor of trained tokens", lambda key: key.part == "trainable_tokens")


@serving("LC430", "targets-form", "config", vllm=REJECTS, sglang=REJECTS, hint="write target_modules as a list",
         evidence={"vllm": PEFT_HELPER, "sglang": "lora/utils.py (read)"})  # fmt: skip
def targets_form(case: Case) -> Problems:
    """``target_modules`` is a regular expression, or is null or missing beside ``target_parameters``.

    SGLang needs a list, ``all`` or ``all-linear``; vLLM refuses a config without the field.
    """
    config, at = case.config, case.in_config("target_modules")
    targets = config.target_modules
    if isinstance(targets, str) and targets not in {"all", ALL_LINEAR}:
        yield Problem(f"target_modules is the string {shown(targets)}", at, effects={"vllm": OK})
    has_others = config.target_parameters or config.trainable_token_indices or "target_parameters" in config.mistyped
    if targets is None and has_others and "target_modules" not in config.mistyped:
        is_given = "target_modules" in config.given
        message = f"target_modules is {'null' if is_given else 'missing'}"
        yield Problem(message, at, effects={"vllm": OK} if is_given else {})


@serving("LC431", "tensor-unread", "config", "weights", vllm=REJECTS,
         hint="`lora-cli repair --engine vllm` rewrites the names of LoRA weights; if they are none, " + MERGE,
         evidence={"vllm": UTILS})  # fmt: skip
def tensor_unread(case: Case) -> Problems:
    """A tensor that is no factor, and that vLLM cannot parse: it refuses the whole adapter.

    Copies of the base's weights other than the embedding's and the head's, or what a field of the config does not
    announce: magnitudes without ``use_dora``, biases without ``bias``.
    """
    has_dora, has_bias = raw_value(case.config, "use_dora"), raw_value(case.config, "bias") != "none"

    def is_unread(key: Key) -> bool:
        is_bias = key.part == "bias" or (key.part == "saved" and not is_saved(key))
        return (is_bias and not has_bias) or (key.part == "base_layer" and last_name(key.module) not in COPIED)

    yield from _tensors(case, "tensor that is no LoRA weight", is_unread)
    is_magnitude = (key for key in case.other_keys if key.part == "magnitude" and not key.param and not has_dora)
    of_dora = {key.name for key in is_magnitude}
    yield from _tensors(case, "magnitude", lambda key: key.name in of_dora, MERGE)


@serving("LC432", "module-unserved", "weights", "base", vllm=REJECTS, sglang=CRASHES,
         hint="train without these modules, or merge the adapter",
         evidence={"vllm": "lora/lora_model.py, lora/model_manager.py (run)",
                   "sglang": "lora/mem_pool.py (run), lora/lora.py (read)"})  # fmt: skip
def module_unserved(case: Case, on: On) -> Problems:
    """PEFT finds a module in the base, and the engine does not: by its name, or because it has no LoRA there.

    vLLM refuses a last name that no module of its model has, and ignores a module that is elsewhere. SGLang finds
    modules by the number of their layer and their last name: without a buffer for the name it crashes, and without a
    number it drops them.
    """
    known, placed = {*case.application.absent, *case.application.beyond}, on.placed
    unexpected = [module for module in placed.unexpected if module not in known]
    if unexpected:
        leaves = sorted({last_name(module) for module in unexpected})
        message = f"{counted(len(unexpected), 'module')} named {names(leaves)}: {names(unexpected)}"
        yield Problem(message, case.in_weights(unexpected[0]))
    nowhere = [module for module in placed.nowhere if module not in known]
    if nowhere:
        missed = f"{placed.applied_count} modules apply, {placed.nowhere[nowhere[0]]}: {names(nowhere)}"
        repaired = "`lora-cli repair --engine vllm --base BASE` corrects the names"
        hint = OTHER_BASE if placed.applied or on.name != "vllm" else repaired
        yield Problem(missed, case.in_weights(nowhere[0]), hint, {on.name: WRONG})


@serving("LC433", "tower-module", "weights", "base", vllm=WRONG,
         hint="start vLLM with `--enable-tower-connector-lora`, if its model supports that",
         evidence={"vllm": f"{MANAGER} (read)"})  # fmt: skip
def tower_module(case: Case, on: On) -> Problems:
    """LoRA on a vision or audio tower, which vLLM ignores by default."""
    found = on.placed.towers
    if found:
        message = f"{counted(len(found), 'module is', 'modules are')} in a tower: {names(found)}"
        yield Problem(message, case.in_weights(found[0]))


def _packed(case: Case, members: frozenset[str]) -> Iterator[tuple[str, Mapping[str, LoraPair]]]:
    """The adapter's packed sets, if the base has their members apart: (first module, all modules by last name)."""
    if case.base is None or not members <= {last_name(path) for path in case.base.modules}:
        return
    sets: dict[str, dict[str, LoraPair]] = {}
    for module, pair in case.adapter.pairs.items():
        parent, _, leaf = module.rpartition(".")
        if leaf in members:
            sets.setdefault(parent, {})[leaf] = pair
    yield from ((f"{parent}.{min(siblings)}", siblings) for parent, siblings in sets.items())


@serving("LC434", "packed-ranks", "weights", sglang=REJECTS, hint=PAD, evidence={"sglang": "lora/lora.py (run)"})
def packed_ranks(case: Case) -> Problems:
    """q, k and v, or gate and up, have different ranks: SGLang packs them into one module with one rank."""
    sets: dict[str, dict[str, int]] = {}
    for module, pair in case.adapter.pairs.items():
        whole = packed_in(last_name(module))
        if whole and pair.rank is not None:
            sets.setdefault(f"{module.rpartition('.')[0]}.{whole}", {})[module] = pair.rank
    mixed = (next(iter(ranks)) for ranks in sets.values() if len(set(ranks.values())) > 1)
    yield from _counted(case, "the ranks of a packed set differ", mixed)


@serving("LC435", "rank-not-r", "config", "weights", sglang=CRASHES, hint=PAD,
         evidence={"sglang": "lora/mem_pool.py (run)"})  # fmt: skip
def rank_not_r(case: Case) -> Problems:
    """Tensors have another rank than ``r``, as ``rank_pattern`` says: SGLang's buffers must match ``r`` exactly."""
    config, wanted = case.config, case.application.ranks
    if "r" not in config.given or "r" in config.mistyped:
        return
    ranks = [(module, pair.rank) for module, pair in case.adapter.pairs.items() if not is_fused(case.adapter, module)]
    # Where the config says otherwise, another check reports it.
    other = [
        (module, rank) for module, rank in ranks if rank not in {None, config.r} and wanted.get(module, rank) == rank
    ]
    if other:
        module, rank = other[0]
        whose = f"{cut(module)}{f' and {len(other) - 1} more' if len(other) > 1 else ''}"
        yield Problem(f"the rank of {whose} is {rank}, but r is {config.r}", case.in_config("r"))


@serving("LC436", "packed-incomplete", "weights", "base", sglang=CRASHES, hint=MERGE,
         evidence={"sglang": "lora/lora.py, lora/mem_pool.py (run)"})  # fmt: skip
def packed_incomplete(case: Case) -> Problems:
    """Q without v, k or v without q, or up without gate.

    SGLang packs q, k and v, and gate and up. It refuses q without v, and crashes where the first of a set is missing.
    """
    qkv, gate_up = list(_packed(case, QKV)), list(_packed(case, GATE_UP))
    without_v = (first for first, has in qkv if "q_proj" in has and "v_proj" not in has)
    yield from _counted(case, "there is q_proj without v_proj", without_v, sglang=REJECTS)
    yield from _counted(case, "there is no q_proj", (first for first, has in qkv if "q_proj" not in has))
    without_gate = (first for first, has in gate_up if "gate_proj" not in has)
    yield from _counted(case, "there is up_proj without gate_proj", without_gate)


def left_out(case: Case) -> list[str]:
    """The modules without LoRA in this deployment. A packed set has LoRA if one of its modules has."""
    targets = case.deployment.lora_target_modules
    if targets is None or "all" in targets:
        return []

    def whole(module: str) -> str:
        return packed_in(last_name(module)) or last_name(module)

    def is_under(module: str, target: str) -> bool:
        return f".{module}".endswith(f".{target}") or (target == "experts" and ".experts." in module)

    wanted = {whole(target) for target in targets}
    others = [module for module in case.adapter.pairs if whole(module) not in wanted]
    return [module for module in others if not any(is_under(module, target) for target in targets)]


def _fused(case: Case, on: On, *, by_engine: bool) -> list[str]:
    """The modules with fused experts, if the engine's model fuses experts too (``by_engine``) or does not (else).

    Without a base the engine's model counts as not fused. Modules that the deployment leaves out are ignored.
    """
    family, engine = case.base.model_type if case.base is not None else "", on.profile.engine
    _, other = engine.block_names.get(family, ("", ""))
    unseen = {*left_out(case), *(module for module in case.adapter.pairs if other and other in module)}
    fused = (module for module in case.adapter.pairs if module not in unseen and is_fused(case.adapter, module))
    return list(fused) if (family in engine.fused_experts) == by_engine else []


@serving("LC438", "experts-fused", "weights", vllm=UNTIL_0_31, sglang=CRASHES,
         hint="start vLLM with `--enable-mixed-moe-lora-format` and load it with `is_3d_lora_weight`, or " + MERGE,
         evidence={"vllm": f"{MANAGER} (0.32 run, 0.31 reasoned)", "sglang": "lora/mem_pool.py (run)"})  # fmt: skip
def experts_fused(case: Case, on: On) -> Problems:
    """Factors of all experts in one tensor (``target_parameters``), for an engine that keeps experts apart."""
    yield from _counted(case, "the experts' factors are fused", _fused(case, on, by_engine=False))


@serving("LC439", "experts-incomplete", "weights", vllm=REJECTS, sglang=UNKNOWN,
         hint="target all projections, or both parameters, of all experts",
         evidence={"vllm": f"{MANAGER} (read)"})  # fmt: skip
def experts_incomplete(case: Case, on: On) -> Problems:
    """Not all experts, not all of an expert's projections, different ranks, or one of two fused parameters alone.

    vLLM needs gate, up and down of every expert, each with one rank. What SGLang does is not known.
    """
    fused = set(_fused(case, on, by_engine=True))
    alone = [one for one in sorted(fused) if fused.isdisjoint({one.removesuffix(WRAPPER), f"{one}{WRAPPER}"} - {one})]
    yield from _counted(case, "one of the experts' two parameters has no factors", alone)
    blocks: dict[str, dict[str, set[tuple[str, int | None]]]] = {}
    unseen = set(left_out(case))
    for module, pair in case.adapter.pairs.items():
        head, dot, tail = module.partition(".experts.")
        index, _, leaf = tail.partition(".")
        if dot and index.isdecimal() and module not in unseen:
            blocks.setdefault(head, {}).setdefault(index, set()).add((leaf, pair.rank))
    if case.base is None or not blocks:
        return
    wanted = max((shape[0] for path, shape in case.base.parameters.items() if ".experts." in path), default=0)
    short = [
        f"{head}.experts"
        for head, experts in blocks.items()
        if len(experts) < wanted or len(set(map(frozenset, experts.values()))) > 1 or len(min(experts.values())) != 3
    ]
    yield from _counted(case, f"some of the {wanted} experts have no factors, or different ones", short)


@serving("LC440", "rows-reordered", "weights", "base", vllm=WRONG, hint=MERGE,
         evidence={"vllm": "model_executor/models/llama4.py (0.32 run)"})  # fmt: skip
def rows_reordered(case: Case, on: On) -> Problems:
    """LoRA on q or k of Llama 4.

    vLLM reorders the rows of the base's weight for its rotary embedding, but not those of ``lora_B``.
    """
    unseen, leaves = set(left_out(case)), on.profile.engine.reordered.get(case.known_base.model_type, frozenset())
    meant = (module for module in on.placed.applied if last_name(module) in leaves and module not in unseen)
    yield from _counted(case, "the engine's model has these rows in a different order", meant)


def _mapped_class(case: Case) -> tuple[str, str]:
    """The class of the base that ``auto_mapping`` names, and its module; empty where it names none."""
    if case.adapter.config is None:
        return "", ""
    library = (case.config.auto_mapping or {}).get("parent_library")
    return case.config.base_class, library if isinstance(library, str) else ""


@serving("LC441", "base-without-lora", vllm=REJECTS,
         hint="merge the adapter into the base and serve that as a model",
         evidence={"vllm": "docs/models/supported_models.md (0.32 run)"})  # fmt: skip
def base_without_lora(case: Case, on: On) -> Problems:
    """VLLM has no class with LoRA for the base: it exits at start when ``--enable-lora`` is set.

    Without a base, this is about the class in ``auto_mapping``.
    """
    if (base := case.base) is not None:
        if not on.profile.has_lora(base.architecture, base.model_type):
            architecture = cut(base.architecture or base.model_type)
            message = f"the base is {cut(base.name)} ({architecture}), of which it has no class with LoRA"
            yield Problem(message, case.in_weights())
        return
    named, library = _mapped_class(case)
    module = library.removeprefix("transformers.models.")
    family = module.partition(".")[0] if library.startswith("transformers.") else ""
    if not any(_of_other_model(case)) and not on.profile.has_lora(named, family):
        yield Problem(f"auto_mapping names {cut(named)}", Location(CONFIG, "auto_mapping"))


def is_not_for_text(architecture: str) -> bool:
    """Whether a class of transformers is for images or sound, or has a head that no engine generates text with."""
    return re.fullmatch(NOT_FOR_TEXT, architecture.rpartition("For")[2]) is not None


@serving("LC442", "other-model", vllm=REJECTS, sglang=REJECTS, hint="serve it with a server for such models",
         evidence={"vllm": "docs/models/supported_models.md (0.32 run)",
                   "sglang": "models/registry.py (reasoned)"})  # fmt: skip
def other_model(case: Case) -> Problems:
    """Without a base: the config or the names are those of a diffusion model, or of a class for images or sound.

    The engines have no class with LoRA for such a model, and refuse the modules on another base.
    """
    yield from _of_other_model(case)


def _of_other_model(case: Case) -> Problems:
    if case.base is not None:
        return
    named, library = _mapped_class(case)
    if library.partition(".")[0] == "diffusers" or is_not_for_text(named):
        yield Problem(f"auto_mapping names {cut(named)}", Location(CONFIG, "auto_mapping"))
        return
    of_diffusion = (module for module in case.adapter.pairs if module.partition(".")[0] in DIFFUSION)
    yield from _counted(case, "a diffusion model has such modules", of_diffusion)


@serving("LC443", "targets-filtered", "weights", vllm=WRONG, sglang=REJECTS,
         evidence={"vllm": f"{MANAGER} (read)", "sglang": "lora/lora_manager.py (read)"})  # fmt: skip
def targets_filtered(case: Case) -> Problems:
    """The engine is started with LoRA on other modules (``--lora-target-modules``); vLLM does not check the adapter."""
    targets = case.deployment.lora_target_modules or ()
    if found := left_out(case):
        wanted = " ".join(sorted({last_name(module) for module in case.adapter.pairs} | set(targets)))
        hint = f"start the engine with `--lora-target-modules {wanted}`"
        yield Problem(f"only {names(targets)} has LoRA: {names(found)}", case.in_weights(found[0]), hint)


@serving("LC444", "pinned-beyond-slots", sglang=REJECTS, evidence={"sglang": "lora/lora_manager.py (read)"})
def pinned_beyond_slots(case: Case) -> Problems:
    """At least as many adapters are pinned as there are slots: SGLang reserves one for the base."""
    pinned, slots = case.deployment.pinned, case.deployment.max_loras
    if slots is not None and pinned >= slots:
        message = f"{counted(pinned, 'adapter is', 'adapters are')} pinned, but max_loras is {slots}"
        hint = f"start SGLang with `--max-loras-per-batch {pinned + 1}`, or pin fewer"
        yield Problem(message, case.in_weights(), hint)


@serving("LC445", "stray-weights", sglang=WRONG,
         hint="publish the adapter without them: `lora-cli fetch --publish`",
         evidence={"sglang": "model_loader/loader.py (read)"})  # fmt: skip
def stray_weights(case: Case) -> Problems:
    """Other safetensors files lie in the adapter's folder: SGLang reads every one as the adapter's."""
    weights, stray = case.adapter.weight_files, case.adapter.stray_weights
    if stray:
        message = f"{names(stray)} {'is' if len(stray) == 1 else 'are'} next to {weights[0]}"
        yield Problem(message, Location(cut(stray[0])))


@serving("LC446", "shared-expert-factors", "weights", vllm=REJECTS,
         hint="start vLLM 0.33 or newer with `--enable-moe-shared-loras`",
         evidence={"vllm": "config/lora.py, lora/model_manager.py (0.33 read)"})  # fmt: skip
def shared_expert_factors(case: Case) -> Problems:
    """Experts share a factor: A of gate and up, or B of down, has three dimensions, and one expert in the first.

    vLLM 0.33 takes that layout with ``--enable-moe-shared-loras`` alone. SGLang takes it, if all adapters of one start
    have it. PEFT does not write it.
    """
    yield from _counted(case, "the experts share a factor", shared_experts(case.adapter))
