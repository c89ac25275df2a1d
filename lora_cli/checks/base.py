"""LC31x, LC32x: the adapter compared with the base model."""

import re

from lora_cli.adapter.adapter import PAIR_PARTS, last_name
from lora_cli.base.base_model import OTHER_BASE, WHERE
from lora_cli.checks.case import Case, On
from lora_cli.checks.check import ALL_OK, CRASHES, OK, REJECTS, WRONG, NotChecked, Problems, check, grouped, shape
from lora_cli.checks.config import targets_none
from lora_cli.engines.name_resolution import LAYER
from lora_cli.errors import FormatError
from lora_cli.finding import NO_NAME, Location, Problem
from lora_cli.peft.targets import EMBEDDING_NAMES, HEADS, OUTPUT_NAMES, timed
from lora_cli.refs.reference import cached_repository, hub_words
from lora_cli.text import counted, cut, names, shown

COPY = r"(?:-(?:unsloth|bnb|[48]bit|awq|gptq|gguf|u?int[48]|n?v?fp[48]|dynamic|hf|quantized\.w\d{1,2}a\d{1,2}))+$"
"""The end of the names of quantised and converted copies of a model, in lower case."""

VECTORS = frozenset({"bias", "lora_bias", "magnitude"})
"""Parts with one value for each output of their module."""

SAVED = {
    "saved": "a saved tensor",
    "base_layer": "a copy of the base's tensor",
    "magnitude": "DoRA's magnitude",
    "trainable_tokens": "the tensor of trained tokens",
}

NORM = re.compile(r"norm|^ln_", re.IGNORECASE)
"""In the last names of the norms of every family, which are modules of the base that no LoRA is put on."""

OWN_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "Segmentation", "ObjectDetection")
"""Ends of the names of transformers' classes with a new head for each task."""

HEAD_NAMES = frozenset(name for names in HEADS.values() for name in names) | {"decode_head"}
"""Names of the heads of such classes."""


@check("LC311", "modules-not-in-base", "weights", "base", peft=WRONG, vllm=REJECTS, sglang=CRASHES,
       hint=f"{OTHER_BASE}; `lora-cli repair` corrects names that a wrapper changed",
       evidence={"peft": "tuners/lora/model.py (run)", "vllm": "lora/lora_model.py, lora/model_manager.py (run)",
                 "sglang": "lora/lora.py (read), lora/mem_pool.py (run)"})  # fmt: skip
def modules_not_in_base(case: Case, on: On) -> Problems:
    """Some or all of the adapter's modules do not exist in the base: it has other names, or fewer layers.

    PEFT drops their tensors silently. Engines drop them, too, refuse them (vLLM), or crash on them (SGLang).
    """
    application = case.application
    missing = (*application.absent, *application.beyond)
    # Where nothing fits, the shapes are another base's, too, and that is told.
    if not missing or (application.misshapen and not application.applied.matched):
        return
    effect = on.without(missing, beyond=bool(application.beyond))
    if on.name == "peft":  # which stacks the factors of separate experts where the base has fused ones, and may fail
        is_refused = application.refused is not None or (not application.matched and targets_none(case))
        effect = REJECTS if is_refused else WRONG
    applied, base, layer = application.applied, case.known_base, LAYER.search(missing[0])
    own = [path for path in base.modules if layer and path.endswith(missing[0][layer.start("stack") :])]
    hint = f"{_fix(case)}; the base has modules like {names(list(base.modules), 2)}"
    if len(own) == 1:
        hint = f"this base calls it {cut(own[0])}: if it is the same model, `lora-cli repair --base` corrects the names"
    yield Problem(
        f"{applied.matched} of {counted(applied.total, 'module')} apply to {cut(base.name)}: {application.reasons()}: "
        f"{names(missing)}",
        case.in_weights(missing[0]),
        hint,
        {on.name: effect},
    )


def _fix(case: Case) -> str:
    """The hint to use the right base, with its name if the config has another one."""
    return f"{OTHER_BASE}, {cut(trained)}" if (trained := _other_base(case)) else OTHER_BASE


@check("LC314", "shape-mismatch", "config", "weights", "base", peft=REJECTS, sglang=CRASHES, hint=OTHER_BASE,
       evidence={"vllm": "lora/layers/base_linear.py (run)"})  # fmt: skip
def shape_mismatch(case: Case, on: On) -> Problems:
    """A's columns or B's rows are not the input or output width of the module in the base.

    vLLM refuses a factor that is too wide, and serves one that is too narrow with zeros for the rest: an adapter of a
    narrower model of the same family loads without an error.
    """
    if case.unserved_variant:
        yield NotChecked(f"{case.unserved_variant} is set, which no engine serves: shapes are not checked")
    application = case.application
    if not (found := application.misshapen):
        return
    effect = CRASHES if on.name == "sglang" else REJECTS
    if on.name == "vllm":
        base, applied, wide, narrow = case.known_base, {*on.placed.applied}, False, False
        for module, pair in case.adapter.pairs.items():
            wanted = base.modules.get(module)
            if pair.embedding:
                wide |= bool(pair.a and base.vocab_size and pair.a.shape[-1:] != (base.vocab_size,))
            elif wanted is not None and module in applied:
                needs = zip(pair.widths, (wanted.d_in, wanted.d_out), strict=True)
                over = [width - need for width, need in needs if width]
                wide, narrow = wide or max(over, default=0) > 0, narrow or min(over, default=0) < 0
        effect = REJECTS if wide else WRONG if narrow else OK
    if not application.applied.matched and on.name != "peft":
        effect = max(effect, on.without((*application.absent, *application.beyond), beyond=bool(application.beyond)))
    first, differences = next(iter(found.items()))
    share = f"{len(found)} of {counted(len(application.found), 'module')}"
    message = f"the base has other widths than {share}: in {cut(first)} {'; '.join(differences)}"
    yield Problem(message, case.in_weights(first), _fix(case), {on.name: effect})


@check("LC315", "targets-without-tensors", "config", "weights", "base", peft=WRONG,
       hint="if only these layers were trained, list them in layers_to_transform; else save it again")  # fmt: skip
def targets_without_tensors(case: Case) -> Problems:
    """The config targets modules of the base that the weights have no tensors for; PEFT leaves them as they are."""
    missing = case.application.missing
    if missing and case.application.applied.matched:
        message = f"the config targets {counted(len(missing), 'module')} of the base without tensors: {names(missing)}"
        yield Problem(message, case.in_config("target_modules"))


@check("LC324", "other-base", "config", "base", hint=OTHER_BASE)
def other_base(case: Case) -> Problems:
    """The config has a different base from the one that the adapter is validated against.

    A model and its instruct version have the same shapes: the adapter loads on either. Mirrors and quantised copies
    count as the same. ``lora-cli repair --base-name ORG/NAME`` corrects the config.
    """
    if (trained := _other_base(case)) is None:
        yield NotChecked(NO_NAME)
    application = case.application
    # Else the base is named in the hint of that.
    is_told = application.absent or application.beyond or (case.has_weights and application.misshapen)
    if trained and not is_told:
        message = f"it was trained on {cut(trained)}, but is validated against {cut(case.known_base.repository)}"
        yield Problem(message, case.in_config("base_model_name_or_path"))


def _other_base(case: Case) -> str | None:
    """The base in the config if it is another one than that of the case, None if that has no name; else empty."""
    config, base = case.adapter.config, case.known_base
    trained = (config.base_model_name_or_path if config is not None else None) or ""
    cached = cached_repository(trained)
    # On the Hub a name has at most 96 characters; Llama 3 models have two names.
    folder = base.name.removesuffix(WHERE).rstrip("/")  # may have the model's name
    all_names = (cached[0] if cached else trained, base.repository, folder)
    own, *others = [re.sub(COPY, "", one.rpartition("/")[2].lower()[:96]).removeprefix("meta-") for one in all_names]
    if own in others or not (cached or hub_words(trained)):
        return ""
    return trained if base.repository else None


@check("LC316", "saved-module-missing", "config", "weights", "base", peft=REJECTS, vllm=WRONG, sglang=WRONG,
       hint="save the adapter again, or remove from the config what was not trained")  # fmt: skip
def saved_module_missing(case: Case) -> Problems:
    """The config asks for trained tensors that are not saved: modules, tokens, or the head of a task.

    PEFT fails without them, or makes a new head of random weights; engines serve the base's own module.
    """
    config, keys = case.config, case.adapter.keys.values()
    saved = {key.module for key in keys if key.part == "saved" and not key.adapter_name}
    tied = EMBEDDING_NAMES | OUTPUT_NAMES if config.ensure_weight_tying else frozenset()  # written once for both
    named = [path for path in case.known_base.modules if last_name(path) not in tied]

    def lacks(name: str) -> bool:
        with timed(f"{config.file}: modules_to_save"):
            # PEFT matches the end of the path of the module or of one around it, not a pattern.
            meant = [path for path in named if path.endswith(name) or f"{name}." in path]
            if meant or any(path.endswith(name) for path in saved):
                return any(path not in saved for path in meant)
        return NORM.search(last_name(name)) is not None

    missing = list[str]()
    try:
        missing += filter(lacks, dict.fromkeys(config.modules_to_save or ()))
    except FormatError as error:
        yield NotChecked(f"modules_to_save: {error.reason}")
    if missing:
        message = f"the weights do not contain all of {names(missing)} of modules_to_save"
        yield Problem(message, case.in_config("modules_to_save"))
    without = "but the weights contain no trained"
    heads, trained = HEADS.get(config.task_type or "", ()), {part for key in keys for part in key.module.split(".")}
    if heads and trained.isdisjoint(heads):
        message = f"task_type is {shown(config.task_type)}, {without} {' or '.join(heads)}"
        yield Problem(message, case.in_config("task_type"))
    own_head = "For" in config.base_class and config.base_class.endswith(OWN_HEADS)
    if own_head and not heads and not config.modules_to_save and trained.isdisjoint(HEAD_NAMES):
        message = f"it was trained on {shown(config.base_class)}, {without} head: a new, random one would be used"
        yield Problem(message, case.in_config("auto_mapping"), effects=ALL_OK)
    tokens = config.trainable_token_indices
    is_asked = bool(tokens) or isinstance(tokens, tuple)  # PEFT looks for those of an empty list, too
    if is_asked and not any(key.part == "trainable_tokens" for key in keys):
        yield Problem(f"trainable_token_indices is set, {without} tokens", case.in_config("trainable_token_indices"))


@check("LC321", "saved-shape", "weights", "base", "companions", peft=REJECTS, vllm=WRONG, sglang=REJECTS,
       hint="validate against the base that it was trained on, with the embeddings that it was resized to",
       evidence={"sglang": "lora/lora_manager.py (read)"})  # fmt: skip
def saved_shape(case: Case) -> Problems:
    """A saved module, bias, magnitude or token does not fit the base: its shape, or the size of the vocabulary.

    PEFT refuses another shape until the base is resized; engines truncate such tensors or fail at the first request. A
    token beyond the last row is an index error in the middle of a request.
    """
    base, messages = case.known_base, list[tuple[str, str]]()
    if (size := base.vocab_size) is None:
        yield NotChecked("the base's vocabulary is unknown")
    ids = case.companions.added_tokens or {}
    added = sorted(token for token, index in ids.items() if size is not None and index >= size)
    config = case.adapter.config
    chosen = (config.trainable_token_indices if config is not None else None) or ()
    for name, key in case.application.adapter.keys.items():
        module = None if key.part in PAIR_PARTS else base.modules.get(key.module)
        if module is None or name not in case.adapter.tensors:
            continue
        has = case.adapter.tensors[name].shape
        own = chosen.items() if isinstance(chosen, dict) else [(key.module, chosen)]  # of each embedding, or of all
        rows = next((len(ids) for one, ids in own if f".{key.module}".endswith(f".{one}")), has[0] if has else 0)
        is_embedding = module.kind == "embedding"
        wanted: tuple[int, ...] | None = None
        if key.part == "trainable_tokens":
            wanted = (rows, module.d_out if is_embedding else module.d_in) if rows else None
        elif key.part in {"saved", "base_layer"} and key.param == "weight":
            wanted = (module.d_in, module.d_out) if module.kind != "linear" else (module.d_out, module.d_in)
        elif (key.part == "saved" and key.param == "bias") or (key.part in VECTORS and not is_embedding):
            wanted = (module.d_out,)
        if wanted is not None and has != wanted:
            what = SAVED.get(key.part, "a bias")
            messages.append((f"{what} is {shape(has)}, the base needs {shape(wanted)}", key.name))
    effects = {"sglang": REJECTS if added else WRONG}
    yield from grouped(messages, case.weights_file, "tensor", effects=effects)
    if added and not messages:
        message = f"{counted(len(added), 'added token has', 'added tokens have')} an id beyond the base's {size}"
        yield Problem(f"{message}: {names(added)}", Location("added_tokens.json", cut(added[0])))
    lists = [chosen] if isinstance(chosen, tuple) else chosen.values()
    if beyond := [index for indices in lists for index in indices if size and index >= size]:
        message = f"token {min(beyond)} is trained, but the base's vocabulary has {size}"
        yield Problem(message, case.in_config("trainable_token_indices"), effects=effects)
