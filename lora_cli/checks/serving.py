"""LC4xx: what only engines mind, and the limits that they are started with."""

import re
from collections.abc import Iterable, Mapping
from functools import partial

from lora_cli.adapter.adapter import WRAPPER, Key, last_name
from lora_cli.adapter.config import raw_value
from lora_cli.base.base_model import OTHER_BASE
from lora_cli.checks.case import Case, On
from lora_cli.checks.check import CRASHES, MERGE, OK, REJECTS, SAVE_AGAIN, UNKNOWN, WRONG, Problems, check
from lora_cli.checks.config import CHANGES_BASE, INIT
from lora_cli.checks.tensors import shared_experts
from lora_cli.engines import PACKED, VOCABULARY, packed_in, vllm
from lora_cli.engines.name_resolution import COPIED, HEADS
from lora_cli.finding import Effects, Location, Problem, Severity
from lora_cli.peft.match import highest_rank, is_fused
from lora_cli.peft.targets import ALL_LINEAR
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.text import by_key, counted, cut, names, shown

serving = partial(check, floor=None)
"""A check that is not reported where no engine minds."""

PEFT_HELPER, UTILS, MANAGER = "lora/peft_helper.py (run)", "lora/utils.py (run)", "lora/model_manager.py"
"""Files of vLLM that several effects were read in."""

FIELDS: Mapping[str, Effects] = {
    "use_dora": {},
    **{field: {"sglang": WRONG} for field in ("bias", "lora_bias", "alora_invocation_tokens", "layer_replication")},
    **{field: {"sglang": CRASHES} for field in ("use_bdlora", "use_qalora")},
    "arrow_config": {"vllm": WRONG, "sglang": WRONG},
}
"""Fields that PEFT serves and engines do not, and what these do where that is not refusing it."""

PARTS: Mapping[str, Effects] = {
    **{part: {"sglang": WRONG} for part in ("lora_bias", "trainable_tokens")},
    **{part: {"sglang": CRASHES} for part in ("diag", "variant")},
}
"""The same for tensors, by what of a module they are."""

DIFFUSION = r"(?:down|up)_blocks|mid_block|unet|(?:single_)?transformer_blocks"
"""First components of module names in the models of diffusers."""

NOT_FOR_TEXT = (
    r"(?:Image|Video|Audio)\w*Classification|CTC|(?:Zero\w+)?ObjectDetection|\w*Segmentation|DepthEstimation"
    r"|MaskedImageModeling|AudioFrameClassification|XVector|QuestionAnswering|MultipleChoice|NextSentencePrediction"
)
"""Ends of the names of classes in transformers that no engine here has: for images, for sound, and some for text."""

GENERATORS = r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|^PeftModel\w*)$"
"""Classes of transformers and PEFT that engines for language models may serve."""

WHOLE = "target all projections, or both parameters, of all experts"

ROOTS = frozenset({"model", "language_model", "lm_head", "thinker"})
"""First components of module names in the classes for text generation that engines put LoRA on."""


def _told(case: Case, message: str, found: Iterable[str], hint: str = "", effects: Effects | None = None) -> Problems:
    """One problem for all that was found in the weights, if anything was."""
    if listed := list(found):
        yield Problem(f"{message}: {names(listed)}", case.in_weights(listed[0]), hint, effects or {})


@check("LC401", "rank-above-max", "config", vllm=REJECTS, sglang=REJECTS, floor=Severity.ERROR,
       hint="start the engine with a larger `--max-lora-rank`, or train with a smaller rank",
       evidence={"vllm": PEFT_HELPER, "sglang": "lora/lora_manager.py (read)"})  # fmt: skip
def rank_above_max(case: Case, on: On) -> Problems:
    """A module's rank is above the ``max_lora_rank`` that the engine is started with.

    The engine's buffers have that many rows. For a named engine the limit is its default unless one is set.
    """
    engine, given, known = on.profile.engine, case.deployment.max_lora_rank, highest_rank(case.adapter)
    limit = given if given is not None else engine.default_rank
    if limit is None or known is None or (on.asked and on.name == "peft"):
        return
    where, highest, at = known
    if highest > limit:
        allowed = next((rank for rank in engine.ranks if rank >= highest), None if engine.ranks else highest)
        hint = f"start the engine with `--max-lora-rank {allowed}`" if allowed else "train with a smaller rank"
        yield Problem(f"the rank is {highest} ({cut(where)}), but --max-lora-rank is {limit}", at, hint)
    if on.name == "vllm":  # which also copies a B that has another rank than A
        flat = ((module, pair.b, pair.rank) for module, pair in case.adapter.pairs.items() if not pair.embedding)
        wide = (module for module, b, rank in flat if b and len(b.shape) == 2 and rank != b.shape[1] > limit)
        yield from _told(case, f"lora_B has more than the {limit} columns of a slot", wide, SAVE_AGAIN)


@serving("LC405", "engine-unproven", peft=UNKNOWN,
         hint="see `lora-cli engines {engine}` for known behaviour; test the adapter on the engine itself")  # fmt: skip
def engine_unproven(case: Case, on: On) -> Problems:
    """What an engine does is not established: for its version, that base or the adapter."""
    base = case.base
    if not on.profile.proven:
        yield Problem(on.profile.note, case.in_weights())
    if on.name == "peft":
        return
    if base is not None:
        if not on.profile.engine.is_known(base):
            yield Problem(f"it is unknown if it has LoRA for {cut(base.model_type)}", case.in_weights())
        return
    # Signs that it is not for a language model that engines serve.
    config, signs = case.adapter.config, list[str]()
    if config is not None and config.base_class and not re.search(GENERATORS, config.base_class):
        signs.append(f"auto_mapping names {cut(config.base_class)}")
    if config is not None and config.task_type not in {None, "CAUSAL_LM"}:
        signs.append(f"task_type is {cut(str(config.task_type))}")
    strange = [one for one in case.adapter.pairs if one.partition(".")[0] not in ROOTS or ".encoder." in one]
    heads = [key.name for key in case.other_keys if is_saved(key) and last_name(key.module) in HEADS]
    signs += [f"there is a module {cut(one)}" for one in strange[:1]]
    signs += [f"there is a head {cut(one)}" for one in heads[:1]]
    if signs:
        yield Problem(f"without a base it is unknown whether it serves the adapter: {signs[0]}", case.in_weights())


@serving("LC420", "unserved-feature", "config", vllm=REJECTS, sglang=REJECTS, hint=MERGE,
         evidence={"vllm": PEFT_HELPER, "sglang": "lora/lora_config.py, lora/mem_pool.py (run)"})  # fmt: skip
def unserved_feature(case: Case) -> Problems:
    """The adapter has a feature of PEFT that engines do not serve.

    DoRA, trained biases, activated LoRA, BD-LoRA, QALoRA, KaSA, MonteCLoRA, Arrow, replicated layers, trained tokens.
    vLLM refuses all but Arrow. SGLang refuses DoRA, crashes on the tensors of variants, and ignores the rest.
    """
    for field, effects in FIELDS.items():
        value = raw_value(case.config, field)
        if isinstance(value, str) and value != "none" if field == "bias" else value:
            yield Problem(f"{field} is {shown(value)}", case.in_config(field), effects=effects)
    for part, effects in PARTS.items():
        if part != "lora_bias" or not raw_value(case.config, part):
            found = (key.name for key in case.other_keys if key.part == part)
            yield from _told(case, "there are tensors that are no factors", found, effects=effects)


@serving("LC424", "module-scales", "config", "weights", sglang=WRONG,
         hint="`lora-cli repair --engine sglang` folds the scales in",
         evidence={"sglang": "lora/lora_config.py (run)"})  # fmt: skip
def module_scales(case: Case) -> Problems:
    """A module has another scale than the config's ``lora_alpha`` divided by its ``r``.

    SGLang reads no ``use_rslora``, ``rank_pattern`` and ``alpha_pattern``.
    """
    config, by_module = case.config, case.application.scales
    if not by_module:  # with a rank of 0 there is no scale
        return
    common = config.lora_alpha / config.r
    other = [module for module, scale in by_module.items() if abs(scale.scaling - common) > 1e-9 * abs(common)]
    if other:
        field = next((name for name in ("alpha_pattern", "rank_pattern") if getattr(config, name)), "use_rslora")
        message = f"the scale of {cut(other[0])} is {by_module[other[0]].scaling:.4g}, and {common:.4g} without {field}"
        rest = f", which is not read ({len(other)} of {len(by_module)} modules)"
        yield Problem(message + rest, case.in_config(field))


@serving("LC425", "init-changes-base", "config", peft=WRONG, vllm=REJECTS,
         hint="convert it with PEFT's path_initial_model_for_weight_conversion, which leaves the base unchanged",
         evidence={"peft": "lora/layer.py (run)", "vllm": PEFT_HELPER, "sglang": "lora/lora_config.py"})  # fmt: skip
def init_changes_base(case: Case) -> Problems:
    """PiSSA, OLoRA, CorDA, LoftQ or LoRA-GA (``init_lora_weights``), which changed the base's weights in training.

    Engines have the base as it was. PEFT decomposes it again on loading, by iterations (``pissa_niter_…``) randomly; it
    cannot for LoRA-GA, whose gradients are not saved, and vLLM loads it as PEFT does.
    """
    value = raw_value(case.config, INIT)
    if isinstance(value, str) and re.fullmatch(CHANGES_BASE + "|lora_ga", value):
        effects: Effects = {"vllm": WRONG} if value == "lora_ga" else {"peft": OK}
        effects = {} if value.startswith("pissa_niter_") else effects
        yield Problem(f"{INIT} is {shown(value)}", case.in_config(INIT), effects=effects)


def is_saved(key: Key) -> bool:
    """Whether it is a whole parameter of the base; the biases of ``bias="all"`` are ``bias``'s."""
    return key.part == "saved" and (key.param != "bias" or last_name(key.module) in VOCABULARY | HEADS)


@serving("LC428", "saved-module", "config", "weights", vllm=REJECTS, sglang=CRASHES, hint=MERGE,
         evidence={"vllm": UTILS, "sglang": "lora/lora.py, lora/mem_pool.py (run)"})  # fmt: skip
def saved_module(case: Case, on: On) -> Problems:
    """A module of the base that was trained and saved whole (``modules_to_save``): an embedding, a head, a norm.

    vLLM takes ``score`` and ``classifier`` of models that classify sequences (since 0.33 also tokens), with as many
    labels as ``--max-lora-cls-labels``. SGLang drops embeddings and heads, and fails on other modules.
    """
    config, base = case.config, case.base
    others = [name for name in config.modules_to_save or () if name not in HEADS]
    if others and on.name == "vllm":
        yield Problem(f"modules_to_save has {names(others)}", case.in_config("modules_to_save"))
        return
    takes_head = on.profile.takes_head("ForSequenceClassification" if base is None else base.architecture)
    saved = {key.name: last_name(key.module) for key in case.other_keys if is_saved(key)}
    found = [name for name, leaf in saved.items() if leaf not in HEADS or not takes_head]
    in_layer = not {*saved.values()} <= VOCABULARY | HEADS
    yield from _told(case, "there are saved weights", found, effects={"sglang": CRASHES if in_layer else WRONG})


@serving("LC430", "targets-form", "config", vllm=REJECTS, sglang=REJECTS, hint="write target_modules as a list",
         evidence={"vllm": PEFT_HELPER, "sglang": "lora/utils.py (read)"})  # fmt: skip
def targets_form(case: Case) -> Problems:
    """``target_modules`` is a regular expression, or is null or missing beside ``target_parameters``.

    SGLang needs a list, ``all`` or ``all-linear``; vLLM refuses a config without the field.
    """
    config, targets = case.config, case.config.target_modules
    has_others = config.target_parameters or config.trainable_token_indices or "target_parameters" in config.mistyped
    if isinstance(targets, str) and targets not in {"all", ALL_LINEAR}:
        form = f"the string {shown(targets)}"
    elif targets is None and has_others and "target_modules" not in config.mistyped:
        form = "null" if "target_modules" in config.given else "missing"
    else:
        return
    effects: Effects = {} if form == "missing" else {"vllm": OK}
    yield Problem(f"target_modules is {form}", case.in_config("target_modules"), effects=effects)


@serving("LC431", "tensor-unread", "config", "weights", vllm=REJECTS,
         hint="`lora-cli repair --engine vllm` rewrites the names of LoRA weights; if they are none, " + MERGE,
         evidence={"vllm": UTILS})  # fmt: skip
def tensor_unread(case: Case) -> Problems:
    """A tensor that vLLM cannot parse: a copy of the base's, or one that the config lacks, as for ``use_dora``."""
    has_dora, has_bias = raw_value(case.config, "use_dora"), raw_value(case.config, "bias") != "none"

    def is_unread(key: Key) -> bool:
        if key.part == "magnitude":
            return not key.param and not has_dora
        if key.part == "base_layer":
            return last_name(key.module) not in COPIED
        return not has_bias and (key.part == "bias" or (key.part == "saved" and not is_saved(key)))

    yield from _told(case, "there are tensors that vLLM cannot read", (k.name for k in case.other_keys if is_unread(k)))


@serving("LC432", "module-unserved", "weights", "base", vllm=REJECTS, sglang=CRASHES,
         hint="train without these modules, or merge the adapter",
         evidence={"vllm": f"{MANAGER} (run)", "sglang": "lora/mem_pool.py (run), lora/lora.py (read)"})  # fmt: skip
def module_unserved(case: Case, on: On) -> Problems:
    """PEFT finds a module in the base, and the engine does not: by its name, or because it has no LoRA there.

    vLLM refuses a last name that no module of its model has, and ignores a module that is elsewhere. SGLang crashes on
    a last name that it has no buffer for, and drops a module without a layer's number.
    """
    known, placed = {*case.application.absent, *case.application.beyond}, on.placed
    unexpected = (module for module in placed.unexpected if module not in known)
    yield from _told(case, "the engine's model has no such names", unexpected)
    if nowhere := [module for module in placed.nowhere if module not in known]:
        missed = f"{placed.applied_count} modules apply, {placed.nowhere[nowhere[0]]}"
        hint = f"{OTHER_BASE}; `lora-cli repair` corrects the names if a wrapper changed them"
        yield from _told(case, missed, nowhere, hint, {on.name: WRONG})


@serving("LC433", "tower-module", "weights", "base", vllm=WRONG, sglang=WRONG,
         hint="train the language model alone, or start vLLM with `--enable-tower-connector-lora`",
         evidence={"vllm": f"{MANAGER} (read)", "sglang": "lora/lora.py (run)"})  # fmt: skip
def tower_module(case: Case, on: On) -> Problems:
    """LoRA on a vision or audio tower, which vLLM ignores by default.

    SGLang finds a module by its layer and last name: of one in a tower and one in the language model, one is lost.
    """
    yield from _told(case, f"{counted(len(on.placed.towers), 'module')} in a tower", on.placed.towers)
    yield from _told(case, "two modules have the same layer and last name", on.placed.collisions)


@serving("LC435", "rank-not-r", "config", "weights", sglang=CRASHES,
         hint="`lora-cli repair --engine sglang` pads them to the same rank",
         evidence={"sglang": "lora/lora.py, lora/mem_pool.py (run)"})  # fmt: skip
def rank_not_r(case: Case) -> Problems:
    """Tensors have another rank than ``r``, as ``rank_pattern`` says: SGLang's buffers must match ``r`` exactly.

    It refuses different ranks for q, k and v, or for gate and up, which it packs into one module.
    """
    config, wanted = case.config, case.application.ranks
    packed, other = dict[str, dict[int, str]](), list[str]()
    for module, pair in case.adapter.pairs.items():
        if pair.rank is None:
            continue
        if whole := packed_in(last_name(module)):
            packed.setdefault(f"{module.rpartition('.')[0]}.{whole}", {})[pair.rank] = module
        # Where the config says otherwise, another check reports it.
        as_wanted = wanted.get(module, pair.rank) == pair.rank and not is_fused(case.adapter, module)
        if pair.rank != config.r and as_wanted and "r" in config.given and "r" not in config.mistyped:
            other.append(module)
    mixed = [module for ranks in packed.values() if len(ranks) > 1 for module in ranks.values()]
    yield from _told(case, "the ranks of a packed set differ", mixed, effects={"sglang": REJECTS})
    yield from _told(case, f"the rank is not {config.r}, as r is", [] if mixed else other)


@serving("LC436", "packed-incomplete", "weights", "base", sglang=CRASHES, hint=MERGE,
         evidence={"sglang": "lora/lora.py, lora/mem_pool.py (run)"})  # fmt: skip
def packed_incomplete(case: Case) -> Problems:
    """Q without v, k or v without q, or up without gate, which SGLang packs.

    It refuses q without v, and crashes where the first of a set is missing.
    """
    leaves = {last_name(path) for path in case.known_base.modules}
    for members in PACKED.values():
        sets: dict[str, dict[str, str]] = {}
        for module in case.adapter.pairs if leaves.issuperset(members) else ():
            if last_name(module) in members:
                sets.setdefault(module.rpartition(".")[0], {})[last_name(module)] = module
        without_first = (min(has.values()) for has in sets.values() if members[0] not in has)
        yield from _told(case, f"there is no {members[0]}", without_first)
        without_v = (min(has.values()) for has in sets.values() if "q_proj" in has and "v_proj" not in has)
        yield from _told(case, "there is q_proj without v_proj", without_v, effects={"sglang": REJECTS})


@serving("LC438", "experts-layout", "weights", vllm=REJECTS, sglang=CRASHES,
         hint="start vLLM with `--enable-mixed-moe-lora-format` and load it with `is_3d_lora_weight`, or " + MERGE,
         evidence={"vllm": f"{MANAGER} (0.32 run, 0.33 read)", "sglang": "lora/mem_pool.py (run)"})  # fmt: skip
def experts_layout(case: Case, on: On) -> Problems:
    """Factors of experts in a layout that the engine's model does not have, or not of all experts and projections.

    All in one tensor (``target_parameters``), or one that all share: with one expert in the first of three dimensions,
    which SGLang takes, and vLLM with an option. Apart, every projection needs one rank in all experts.
    """
    base, pairs = case.base, case.adapter.pairs
    family = base.model_type if base is not None and on.name == "vllm" else ""
    _, other = vllm.BLOCK_NAMES.get(family, ("", ""))
    fused = [one for one in pairs if not (other and other in one) and is_fused(case.adapter, one)]
    is_short: Effects = {"sglang": UNKNOWN}
    if family in vllm.FUSED_EXPERTS:
        alone = sorted(one for one in fused if not ({one.removesuffix(WRAPPER), one + WRAPPER} - {one}) & {*fused})
        yield from _told(case, "one of the experts' two parameters has no factors", alone, WHOLE, is_short)
    else:
        yield from _told(case, "the experts' factors are fused", fused)
    hint = "start vLLM 0.33 or newer with `--enable-moe-shared-loras`"
    yield from _told(case, "the experts share a factor", shared_experts(case.adapter), hint, {"sglang": OK})
    if base is not None:
        wanted = max((shape[0] for path, shape in base.parameters.items() if ".experts." in path), default=0)
        parts = ((re.fullmatch(r"(.+\.experts)\.\d+\.(.+)", one), pair.rank) for one, pair in pairs.items())
        blocks = by_key((part[1], (part[2], rank)) for part, rank in parts if part)
        short = (block for block, found in blocks.items() if len(set(found)) != 3 or len(found) < 3 * wanted)
        message = f"some of the {wanted} experts have no factors, or different ones"
        yield from _told(case, message, short, WHOLE, is_short)


@serving("LC440", "rows-reordered", "weights", "base", vllm=WRONG, hint=MERGE,
         evidence={"vllm": "model_executor/models/llama4.py (0.32 run)"})  # fmt: skip
def rows_reordered(case: Case, on: On) -> Problems:
    """LoRA on q or k of Llama 4: vLLM reorders the rows of the base's weight, but not those of ``lora_B``."""
    leaves = vllm.REORDERED.get(case.known_base.model_type, frozenset())
    meant = (module for module in on.placed.applied if last_name(module) in leaves)
    yield from _told(case, "the engine's model has these rows in a different order", meant)


@serving("LC441", "base-without-lora", vllm=REJECTS, sglang=REJECTS,
         hint="merge the adapter into the base and serve that with an engine that has such models",
         evidence={"vllm": "docs/models (0.32 run)", "sglang": "models/registry.py (reasoned)"})  # fmt: skip
def base_without_lora(case: Case, on: On) -> Problems:
    """The engine has no class with LoRA for the base: vLLM exits at start when ``--enable-lora`` is set.

    Without a base, this is about the class in ``auto_mapping`` and the modules: none has diffusers, images or sound.
    """
    if (base := case.base) is not None:
        if not on.profile.has_lora(base.architecture, base.model_type):
            named = cut(base.architecture or base.model_type)
            yield Problem(f"the base is {named}, of which it has no class with LoRA", case.in_weights())
        return
    config = case.adapter.config
    named = config.base_class if config is not None else ""
    library = str((config.auto_mapping or {}).get("parent_library", "")) if config is not None else ""
    is_other = library.startswith("diffusers") or re.fullmatch(NOT_FOR_TEXT, named.rpartition("For")[2])
    of_diffusion = [module for module in case.adapter.pairs if re.fullmatch(DIFFUSION, module.partition(".")[0])]
    family = library.removeprefix("transformers.models.").partition(".")[0]
    if is_other or not on.profile.has_lora(named, family):
        yield Problem(f"auto_mapping names {cut(named)}", Location(CONFIG, "auto_mapping"))
    else:
        yield from _told(case, "a diffusion model has such modules", of_diffusion)


@serving("LC443", "targets-filtered", "weights", vllm=WRONG, sglang=REJECTS,
         evidence={"vllm": f"{MANAGER} (read)", "sglang": "lora/lora_manager.py (read)"})  # fmt: skip
def targets_filtered(case: Case) -> Problems:
    """The engine is started with LoRA on other modules (``--lora-target-modules``); vLLM does not check the adapter."""
    targets = case.deployment.lora_target_modules or ("all",)

    # A packed set has LoRA if one of its modules has.
    whole = {path: packed_in(last_name(path)) or last_name(path) for path in (*targets, *case.adapter.pairs)}
    served, has_experts = {whole[target] for target in targets}, "experts" in targets
    others = (module for module in case.adapter.pairs if whole[module] not in served)
    found = [module for module in others if not (has_experts and ".experts." in module)]
    if found and "all" not in targets:
        wanted = " ".join(sorted({last_name(module) for module in case.adapter.pairs} | set(targets)))
        hint = f"start the engine with `--lora-target-modules {wanted}`"
        yield Problem(f"only {names(targets)} has LoRA: {names(found)}", case.in_weights(found[0]), hint)


@serving("LC445", "stray-weights", sglang=WRONG, hint="publish the adapter without them: `lora-cli fetch --publish`",
         evidence={"sglang": "model_loader/loader.py (read)"})  # fmt: skip
def stray_weights(case: Case) -> Problems:
    """Other safetensors files lie in the adapter's folder: SGLang reads every one as the adapter's."""
    if stray := case.adapter.stray_weights:
        yield Problem(f"beside {case.weights_file} there is {names(stray)}", Location(cut(stray[0])))
