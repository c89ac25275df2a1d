"""LC311 to LC317, LC32x: the adapter compared with the base model."""

import re
from collections.abc import Iterator
from operator import gt, lt

from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import PAIR_PARTS, Key, last_name
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import OTHER_BASE, BaseModel, BaseModule
from lora_cli.checks.case import Case, On
from lora_cli.checks.check import CRASHES, OK, REJECTS, WRONG, NotChecked, Problems, check, grouped, shape
from lora_cli.errors import FormatError
from lora_cli.finding import Location, Outcome, Problem
from lora_cli.peft.targets import EMBEDDING_NAMES, HEADS, OUTPUT_NAMES, targeted_in, timed
from lora_cli.refs.reference import cached_repository, hub_words
from lora_cli.text import counted, cut, names, shown

COPY = r"-(?:unsloth|bnb|[48]bit|awq|gptq|gguf|u?int[48]|n?v?fp[48]|dynamic|hf|quantized\.w\d{1,2}a\d{1,2})$"
"""Ends of the names of quantised and converted copies of a model, in lower case."""

VARIANT = r"-(?:base|pt|instruct|it|chat)$"
"""Ends of the names of a model's pretrained and tuned versions, in lower case."""

LONGEST_NAME = 96
"""Characters of a repository's name on the Hub, without its organisation."""

FAMILY = r"llama|(?<![a-z])(?:qwen|mistral|mixtral|gemma|falcon|bloom)(?![a-z])"
"""Families whose models have their ``model_type`` in the name."""

VECTORS = frozenset({"bias", "lora_bias", "magnitude"})
"""Parts with one value for each output of their module."""

NORM = re.compile(r"norm|^ln_", re.IGNORECASE)
"""In the last names of the norms of every family, which are modules of the base that no LoRA is put on."""

OWN_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "Segmentation", "ObjectDetection")
"""Ends of the names of transformers' classes with a new head for each task."""

HEAD_NAMES = frozenset(name for names in HEADS.values() for name in names) | {"decode_head"}
"""Names of the heads of such classes."""


@check("LC311", "nothing-applies", "weights", "base", peft=WRONG, vllm=WRONG, sglang=WRONG,
       evidence={"peft": "tuners/lora/model.py (run)", "vllm": "lora/model_manager.py (run)",
                 "sglang": "lora/lora.py (read)"})  # fmt: skip
def nothing_applies(case: Case, on: On) -> Problems:
    """None of the adapter's modules exists in the base: it changes nothing.

    PEFT drops the tensors silently, and refuses a config that targets nothing. Engines return 200 and serve the base
    model, refuse modules that their model does not have (vLLM), or crash on them (SGLang).

    *Fix*: validate against the base that it was trained on; ``lora-cli repair`` corrects the names if a wrapper changed
    them.
    """
    application, total = case.application, case.application.applied.total
    if not total or application.matched:
        return
    effect = on.without((*application.absent, *application.beyond), beyond=bool(application.beyond))
    if on.name == "peft":
        effect = REJECTS if any(_targets_nothing(case)) else WRONG
    first = next(iter(application.adapter.pairs))
    modules = f"the base has modules like {names(list(case.known_base.modules), 2)}"
    yield Problem(
        f"0 of {counted(total, 'module')} apply to {cut(case.known_base.name)}: {application.reasons()}",
        case.in_weights(first),
        f"{_fix(case)}; {modules}",
        {on.name: effect},
    )


def _fix(case: Case) -> str:
    """The hint to use the right base, with its name if the config has another one."""
    trained = _other_base(case)
    return f"{OTHER_BASE}, {cut(trained)}" if trained else OTHER_BASE


@check("LC312", "partly-applied", "weights", "base", peft=WRONG,
       evidence={"vllm": "lora/lora_model.py, lora/model_manager.py (run)",
                 "sglang": "lora/mem_pool.py (run)"})  # fmt: skip
def partly_applied(case: Case, on: On) -> Problems:
    """Some of the adapter's modules exist in the base, others do not.

    The rest is dropped silently, and the served adapter is not the one that was trained; vLLM refuses a module whose
    last name its model does not have, SGLang crashes on it.

    *Fix*: validate against the base that it was trained on.
    """
    application = case.application
    if application.matched and application.absent:
        yield Problem(
            f"only {application.applied.matched} of {counted(application.applied.total, 'module')} apply: the base has "
            f"no {names(application.absent)}",
            case.in_weights(application.absent[0]),
            _fix(case),
            {} if on.name == "peft" else {on.name: on.without(application.absent)},
        )


@check("LC313", "layer-out-of-range", "weights", "base", peft=WRONG, sglang=REJECTS)
def layer_out_of_range(case: Case, on: On) -> Problems:
    """The adapter has tensors for layers that the base does not have.

    It was trained on a deeper model. PEFT and vLLM drop the layers silently, SGLang fails.

    *Fix*: validate against the base that it was trained on.
    """
    beyond, layers = case.application.beyond, case.known_base.num_layers
    if beyond and not case.nothing_fits:  # where nothing fits, another check says so
        has = f"layers 0 to {layers - 1}" if layers > 1 else "layer 0 only"
        yield Problem(
            f"{counted(len(beyond), 'module is', 'modules are')} in layers that the base does not have "
            f"(it has {has}): {names(beyond)}",
            case.in_weights(beyond[0]),
            _fix(case),
            {} if on.name == "peft" else {on.name: on.without(beyond, beyond=True)},
        )


@check("LC314", "shape-mismatch", "config", "weights", "base", peft=REJECTS, vllm=REJECTS, sglang=CRASHES,
       evidence={"vllm": "lora/layers/base_linear.py (run)"})  # fmt: skip
def shape_mismatch(case: Case, on: On) -> Problems:
    """A's columns or B's rows are not the input or output width of the module in the base.

    PEFT refuses it. vLLM refuses a factor that is too wide for its buffer, and copies one that is too narrow into the
    corner of it and serves the rest as zeros: an adapter of a narrower model of the same family loads without an error.
    (Note grouped-query attention: k and v are narrower.)

    *Fix*: validate against the base that it was trained on.
    """
    if case.unserved_variant:
        yield NotChecked(f"{case.unserved_variant} is set, which no engine serves: shapes are not checked")
    found, application = case.misshapen, case.application
    effect = _width_effect(case, on) if on.name == "vllm" else REJECTS if on.name == "peft" else CRASHES
    if found and case.nothing_fits and application.beyond and on.name != "peft":
        effect = max(effect, on.without(application.beyond, beyond=True))
    if 1 < len(found) == len(application.expected):
        first, differences = next(iter(found.items()))
        message = f"none of the {len(found)} modules has the base's widths: in {cut(first)} {'; '.join(differences)}"
        yield Problem(message, case.in_weights(first), _fix(case), {on.name: effect})
        return
    messages = [(message, module) for module, differences in found.items() for message in differences]
    if not messages and on.name == "vllm" and effect:
        messages = [("the factors do not have the width of vLLM's module", next(iter(case.adapter.pairs)))]
    yield from grouped(messages, case.weights_file, "module", _fix(case), {on.name: effect})


def _width_effect(case: Case, on: On) -> Outcome:
    """What vLLM does with factors that are wider or narrower than its modules."""
    base, pairs, worst = case.known_base, case.adapter.pairs, OK
    for pair in pairs.values():
        if pair.embedding and pair.a and base.vocab_size and pair.a.shape[-1:] != (base.vocab_size,):
            return REJECTS
    for module in on.placed.applied:
        pair, wanted = pairs[module], base.modules.get(module)
        if wanted is None or pair.embedding:
            continue
        both = [(has, needs) for has, needs in zip(pair.widths, (wanted.d_in, wanted.d_out), strict=True) if has]
        if any(gt(*one) for one in both):
            return REJECTS
        worst = WRONG if any(lt(*one) for one in both) else worst
    return worst


@check("LC315", "targets-without-tensors", "config", "weights", "base", peft=WRONG,
       hint="if only these layers were trained, list them in layers_to_transform; else save it again")  # fmt: skip
def targets_without_tensors(case: Case) -> Problems:
    """The config targets modules of the base that the weights have no tensors for.

    PEFT leaves these modules as they are, with a log line: a part of the adapter is missing, or it was trained on a
    base with fewer layers or other names.
    """
    missing = case.application.missing
    if missing and not case.nothing_fits:
        message = f"the config targets {counted(len(missing), 'module')} of the base without tensors: {names(missing)}"
        yield Problem(message, case.in_config("target_modules"))


@check("LC317", "experts-not-fused", "config", "weights", "base", peft=WRONG, vllm=OK,
       hint="target all projections of all experts with one rank, or load the adapter with transformers 4")  # fmt: skip
def experts_not_fused(case: Case) -> Problems:
    """Separate experts (``experts.0.w1``), as in transformers 4, do not fit the base's fused experts.

    PEFT stacks the factors of all experts when it loads them on a model of transformers 5. It refuses or silently drops
    those that do not stack. Engines with separate experts may still serve it.
    """
    if case.application.refused is not None:
        yield Problem(cut(case.application.refused.reason), case.in_config("target_modules"))
    yield from grouped(case.application.unfit, case.weights_file, "module")


@check("LC325", "targets-nothing", "config", "base", peft=REJECTS, vllm=OK, sglang=OK, floor=None,
       hint="list the trained modules", evidence={"peft": "tuners/lora/model.py (run)"})  # fmt: skip
def targets_nothing(case: Case) -> Problems:
    """The config targets no module of the base, or leaves it to PEFT, which has no default for the family."""
    application = case.application
    if not application.applied.total or application.matched:  # else another check says so
        for message in _targets_nothing(case):
            yield Problem(message, case.in_config("target_modules"))


def _targets_nothing(case: Case) -> Iterator[str]:
    """Why PEFT finds nothing to put LoRA on."""
    config, base = case.application.adapter.config, case.base
    if config is None or base is None or config.target_parameters or config.trainable_token_indices:
        return
    try:
        if not targeted_in(config, base):
            yield f"target_modules is {shown(config.target_modules)}, and the base has no such module"
    except FormatError:
        if config.target_modules is None and "target_modules" not in config.mistyped:
            yield f"there is no target_modules, and PEFT has no default for {cut(base.model_type)}"


@check("LC324", "other-base", "config", "base", hint=OTHER_BASE)
def other_base(case: Case) -> Problems:
    """The config has a different base from the one that the adapter is validated against.

    A model and its instruct version, and many models of one size, have the same shapes: the adapter loads on either,
    and changes a model that it was not trained on. Mirrors and quantised copies of one model count as the same. A base
    in a folder is compared by its family, and by the folder's name if that ends in ``-instruct``, ``-chat``, ``-it`` or
    ``-base``. If the config is wrong, ``lora-cli repair --base-name ORG/NAME`` writes the right one into a copy.
    """
    base, application = case.known_base, case.application
    differs = application.absent or application.beyond or (application.found and not application.matched)
    if differs or (case.has_weights and case.misshapen):  # other checks say so, with this base in their hint
        return
    if trained := _other_base(case):
        yield Problem(
            f"it was trained on {cut(trained)}, but is validated against {cut(base.repository or base.name)}"
            + ("" if base.repository else f", a {base.model_type}"),
            case.in_config("base_model_name_or_path"),
        )


def _other_base(case: Case) -> str:
    """The base in the config if it is another one than that of the case; empty if it is not known to be."""
    config, base = case.adapter.config, case.base
    trained = (config.base_model_name_or_path if config is not None else None) or ""
    if not trained or base is None:
        return ""
    cached = cached_repository(trained)
    name = _model_name(trained if cached is None else cached[0])
    if base.repository and (cached or hub_words(trained)):
        return trained if name != _model_name(base.repository) else ""
    folder = _model_name(base.name.rstrip("/").removesuffix("/config.json"))
    if name != folder and re.search(VARIANT, folder) and re.sub(VARIANT, "", name) == re.sub(VARIANT, "", folder):
        return trained
    families, family = set(re.findall(FAMILY, name)), set(re.findall(FAMILY, base.model_type))
    return trained if families and family and not families & family else ""


def _model_name(repository: str) -> str:
    """A model's name without its organisation and marks of a copy; Llama 3 models have two names."""
    name = repository.rpartition("/")[2].lower()[:LONGEST_NAME]
    while (shorter := re.sub(COPY, "", name)) != name:
        name = shorter
    return name.removeprefix("meta-")


@check("LC316", "saved-module-missing", "config", "weights", "base", peft=REJECTS, vllm=WRONG, sglang=WRONG)
def saved_module_missing(case: Case) -> Problems:
    """``modules_to_save``, ``trainable_token_indices`` or the task requires trained tensors that are not saved.

    PEFT looks for its tensors and fails; an engine that does not check serves the base's own module instead of the
    trained one.

    *Fix*: save the adapter again, or remove the module from ``modules_to_save`` if it was not trained.
    """
    config = case.config
    try:
        missing = _missing_modules(case, config)
    except FormatError as error:
        yield NotChecked(f"modules_to_save: {error.reason}")
        missing = []
    if missing:
        yield Problem(
            f"{names(missing)} of modules_to_save {'is' if len(missing) == 1 else 'are'} in the base, but the weights "
            f"contain {'nothing of it' if len(missing) == 1 else 'not all of them'}",
            case.in_config("modules_to_save"),
            "save the adapter again, or remove what was not trained",
        )
    heads = HEADS.get(config.task_type or "", ())
    trained = (part for key in case.adapter.keys.values() for part in key.module.split("."))
    if heads and not any(part in heads for part in trained):
        message = f"task_type is {shown(config.task_type)}, but the weights contain no trained {' or '.join(heads)}"
        hint = "save the adapter again with its head, or correct task_type"
        yield Problem(message, case.in_config("task_type"), hint)
    tokens = config.trainable_token_indices
    none = tokens is None or (not tokens and not isinstance(tokens, tuple))  # PEFT looks for those of an empty list too
    if not none and not any(key.part == "trainable_tokens" for key in case.adapter.keys.values()):
        message = "trainable_token_indices lists tokens, but the weights do not contain them"
        yield Problem(message, case.in_config("trainable_token_indices"), "save the adapter again, or remove the field")


@check("LC320", "head-not-saved", "config", "weights",
       hint="train with task_type set (SEQ_CLS), or with the head in modules_to_save")  # fmt: skip
def head_not_saved(case: Case) -> Problems:
    """``auto_mapping`` names a class with its own head (``BertForSequenceClassification``), which is not saved.

    PEFT saves a head if ``task_type`` or ``modules_to_save`` names it. Otherwise the trained head is lost, and the
    adapter is loaded with a new head of random weights.
    """
    config, named = case.config, case.config.base_class
    has_head = "For" in named and named.endswith(OWN_HEADS)
    if not has_head or config.task_type in HEADS or config.modules_to_save:
        return
    is_saved = any(key.part == "saved" for key in case.other_keys)
    if not is_saved and not any(HEAD_NAMES & {*module.split(".")} for module in case.adapter.pairs):
        message = f"it was trained on {shown(named)}, but the weights contain no head: a new, random one would be used"
        yield Problem(message, case.in_config("auto_mapping"))


def _missing_modules(case: Case, config: LoraConfig) -> list[str]:
    """The names of ``modules_to_save`` that match a module of the base without a saved tensor.

    Raises:
        FormatError: there are too many names to compare.
    """
    base = case.known_base
    saved = {key.module for key in case.adapter.keys.values() if key.part == "saved" and not key.adapter_name}
    tied = EMBEDDING_NAMES | OUTPUT_NAMES if config.ensure_weight_tying else frozenset()  # written once for both
    named = [path for path in base.modules if last_name(path) not in tied]
    text = "\n".join([*named, ""])

    def lacks(name: str) -> bool:
        with timed(f"{config.file}: modules_to_save"):
            is_there = f"{name}\n" in text or f"{name}." in text
            # PEFT matches the end of the path of the module or of one around it, not a pattern.
            meant = [path for path in named if path.endswith(name) or f"{name}." in path] if is_there else []
            if meant or any(path.endswith(name) for path in saved):
                return any(path not in saved for path in meant)
        return NORM.search(last_name(name)) is not None

    return [name for name in dict.fromkeys(config.modules_to_save or ()) if lacks(name)]


def _other_tensors(case: Case) -> Iterator[tuple[Key, TensorInfo, BaseModule]]:
    """The tensors that are not factors, of modules in the base: (key, tensor, module)."""
    for name, key in case.application.adapter.keys.items():
        module = None if key.part in PAIR_PARTS else case.known_base.modules.get(key.module)
        if module is not None and name in case.adapter.tensors:
            yield key, case.adapter.tensors[name], module


def _is_resized(key: Key, tensor: TensorInfo, wanted: tuple[int, ...], base: BaseModel) -> bool:
    """Whether it has a row for each token (the embedding, or the head), and only their number differs."""
    module = base.modules[key.module]
    tokens = module.d_in if module.kind == "embedding" else module.d_out
    has_rows = tokens == base.vocab_size and (module.kind == "embedding" or last_name(key.module) in OUTPUT_NAMES)
    return has_rows and len(tensor.shape) == 2 and tensor.shape[1:] == wanted[1:]


@check("LC321", "saved-shape", "weights", "base", peft=REJECTS, vllm=WRONG, sglang=WRONG, hint=OTHER_BASE)
def saved_shape(case: Case) -> Problems:
    """A saved module, a copied weight, a bias or a DoRA magnitude does not have the shape that the base needs.

    PEFT refuses it with a size mismatch. Engines that accept such tensors truncate them or fail at the first request.
    """
    nouns = {
        "saved": "a saved weight",
        "base_layer": "the copy of the base's weight",
        "magnitude": "DoRA's magnitude",
        "trainable_tokens": "the trained tokens",
    }
    messages = []
    for key, tensor, module in _other_tensors(case):
        wanted = _base_shape(key, module)
        if key.part == "trainable_tokens":
            try:
                wanted = _trained_tokens_shape(case, key, module)
            except FormatError as error:
                yield NotChecked(f"trainable_token_indices: {error.reason}")
                break
        elif wanted is not None and _is_resized(key, tensor, wanted, case.known_base):
            continue
        if wanted is not None and tensor.shape != wanted:
            noun = nouns.get(key.part, "a bias")
            messages.append((f"{noun} has the shape {shape(tensor.shape)}, the base needs {shape(wanted)}", key.name))
    yield from grouped(messages, case.weights_file, "tensor")


def _trained_tokens_shape(case: Case, key: Key, module: BaseModule) -> tuple[int, ...] | None:
    """The shape of the trained tokens of the module: a row for each, as wide as the model; None if it has none.

    Raises:
        FormatError: there are too many names to compare.
    """
    chosen = case.adapter.config.trainable_token_indices if case.adapter.config is not None else None
    if chosen is not None and not isinstance(chosen, tuple):
        with timed("trainable_token_indices"):
            chosen = next((indices for name, indices in chosen.items() if key.module.endswith(name)), None)
    width = module.d_out if module.kind == "embedding" else module.d_in
    return None if chosen is None else (len(chosen), width)


def _base_shape(key: Key, module: BaseModule) -> tuple[int, ...] | None:
    """The shape that the base needs; None if it is unknown."""
    if key.part in {"saved", "base_layer"} and key.param == "weight":
        return (module.d_in, module.d_out) if module.kind != "linear" else (module.d_out, module.d_in)
    if (key.part == "saved" and key.param == "bias") or (key.part in VECTORS and module.kind != "embedding"):
        return (module.d_out,)
    return None


@check("LC322", "vocabulary", "weights", "base", "companions", peft=REJECTS, vllm=WRONG, sglang=REJECTS,
       hint="serve a base whose embeddings were resized, or train without new tokens",
       evidence={"sglang": "lora/lora_manager.py (read)"})  # fmt: skip
def vocabulary(case: Case) -> Problems:
    """The adapter is for a larger or smaller vocabulary than the base has.

    PEFT refuses the tensors until the base is resized; vLLM and SGLang cannot resize it, and SGLang refuses added
    tokens. A token beyond the base's last row is an index error in the middle of a request.
    """
    base, added = case.known_base, case.tokens_beyond_vocabulary()
    if base.vocab_size is None:
        yield NotChecked("the base's vocabulary is unknown")
        return
    messages = []
    for key, tensor, module in _other_tensors(case):
        wanted = _base_shape(key, module) if key.part in {"saved", "base_layer"} else None
        if wanted and tensor.shape != wanted and _is_resized(key, tensor, wanted, base):
            has = f"it has {tensor.shape[0]} rows, but the base's vocabulary has {base.vocab_size}"
            messages.append((has, key.name))
    yield from grouped(messages, case.weights_file, "tensor", effects={"sglang": REJECTS if added else WRONG})
    if not messages and added:
        yield Problem(*added)
    config = case.adapter.config
    chosen = config.trainable_token_indices if config is not None else None
    lists = chosen.values() if chosen is not None and not isinstance(chosen, tuple) else [chosen or ()]
    beyond = sorted({index for indices in lists for index in indices if index >= base.vocab_size})
    if beyond:
        message = f"token {beyond[0]} is trained, but the base's vocabulary has {base.vocab_size}"
        yield Problem(message, case.in_config("trainable_token_indices"), OTHER_BASE, {"sglang": WRONG})


@check("LC323", "tied-embeddings", "config", "weights", "base",
       hint="train with ensure_weight_tying=True, or exclude the embedding and the head")  # fmt: skip
def tied_embeddings(case: Case) -> Problems:
    """The base's embedding and head are one tensor, and the adapter changes only one of the two.

    PEFT unties them as soon as they are merged or saved, and engines that tie them apply the change to both or to
    neither: the served adapter is not the one that was trained.
    """
    base = case.known_base
    if not base.tied_embeddings or case.config.ensure_weight_tying:
        return
    touched = {key.module for key in case.adapter.keys.values() if key.module in base.modules}
    changed = sorted(one for one in touched if last_name(one) in EMBEDDING_NAMES | OUTPUT_NAMES)
    if len(changed) == 1:
        message = f"the base ties its embedding to its head, but only {changed[0]} is changed"
        yield Problem(message, Location(case.weights_file, changed[0]))
