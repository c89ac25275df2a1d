"""LC316 and LC32x: tensors that are not factors, and the vocabulary, compared with the base model."""

import re
from collections.abc import Iterator

from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import PAIR_PARTS, Key, last_name
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import OTHER_BASE, BaseModel, BaseModule
from lora_cli.errors import FormatError
from lora_cli.finding import Location, Problem, Severity
from lora_cli.peft.targets import EMBEDDING_NAMES, HEADS, OUTPUT_NAMES, timed
from lora_cli.rules.rule import Case, NotChecked, grouped, rule, shape, shown
from lora_cli.text import names

VECTORS = frozenset({"bias", "lora_bias", "magnitude"})
"""Parts with one value for each output of their module."""

NORM = re.compile(r"norm|^ln_", re.IGNORECASE)
"""In the last names of the norms of every family, which are modules of the base that no LoRA is put on."""

OWN_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "Segmentation", "ObjectDetection")
"""Ends of the names of transformers' classes with a new head for each task."""

HEAD_NAMES = frozenset(name for names in HEADS.values() for name in names) | {"decode_head"}
"""Names of the heads of such classes."""


@rule("LC316", "saved-module-missing", Severity.ERROR, needs=("config", "weights", "base"))
def saved_module_missing(case: Case) -> Iterator[Problem | NotChecked]:
    """``modules_to_save``, ``trainable_token_indices`` or the task requires trained tensors that are not saved.

    *Why is this bad?* PEFT looks for its tensors and fails; an engine that does not check serves the base's own module
    instead of the trained one.

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
        yield Problem(
            f"task_type is {shown(config.task_type)}, but the weights contain no trained {' or '.join(heads)}",
            case.in_config("task_type"),
            "save the adapter again with its head, or correct task_type",
        )
    tokens = config.trainable_token_indices
    none = tokens is None or (not tokens and not isinstance(tokens, tuple))  # PEFT looks for those of an empty list too
    if not none and not any(key.part == "trainable_tokens" for key in case.adapter.keys.values()):
        yield Problem(
            "trainable_token_indices lists tokens, but the weights do not contain them",
            case.in_config("trainable_token_indices"),
            "save the adapter again, or remove the field",
        )


@rule("LC320", "head-not-saved", Severity.WARNING, needs=("config", "weights"))
def head_not_saved(case: Case) -> Iterator[Problem]:
    """``auto_mapping`` names a class with its own head (``BertForSequenceClassification``), which is not saved.

    *Why is this bad?* PEFT saves a head if ``task_type`` or ``modules_to_save`` names it. Otherwise the trained
    head is lost, and the adapter is loaded with a new head of random weights.

    *Fix*: train with ``task_type`` set (``SEQ_CLS``), or with the head in ``modules_to_save``.
    """
    config = case.config
    named = config.base_class
    has_head = "For" in named and named.endswith(OWN_HEADS)
    if not has_head or config.task_type in HEADS or config.modules_to_save:
        return
    is_saved = any(key.part == "saved" for key in case.other_tensors())
    if not is_saved and not any(HEAD_NAMES & {*module.split(".")} for module in case.adapter.pairs):
        yield Problem(
            f"it was trained on {shown(named)}, but the weights contain no head: a new, random one would be used",
            case.in_config("auto_mapping"),
            "train with task_type set, or with the head in modules_to_save",
        )


def _missing_modules(case: Case, config: LoraConfig) -> list[str]:
    """The names of ``modules_to_save`` that match a module of the base without a saved tensor.

    Raises:
        FormatError: there are too many names to compare.
    """
    assert case.base is not None
    base = case.base
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
    assert case.base is not None
    for name, key in case.application.adapter.keys.items():
        module = None if key.part in PAIR_PARTS else case.base.modules.get(key.module)
        if module is not None and name in case.adapter.tensors:
            yield key, case.adapter.tensors[name], module


def _has_vocabulary_rows(key: Key, base: BaseModel) -> bool:
    """Whether the module has a row for each token: the token embedding, or the head."""
    module, last = base.modules[key.module], last_name(key.module)
    tokens = module.d_in if module.kind == "embedding" else module.d_out
    return tokens == base.vocab_size and (module.kind == "embedding" or last in OUTPUT_NAMES)


@rule("LC321", "saved-shape", Severity.ERROR, needs=("weights", "base"))
def saved_shape(case: Case) -> Iterator[Problem | NotChecked]:
    """A saved module, a copied weight, a bias or a DoRA magnitude does not have the shape that the base needs.

    *Why is this bad?* PEFT refuses it with a size mismatch. Engines that accept such tensors truncate them or fail
    at the first request.

    *Fix*: validate against the base that it was trained on.
    """
    assert case.base is not None
    messages = []
    for key, tensor, module in _other_tensors(case):
        wanted = _base_shape(key, module)
        if key.part == "trainable_tokens":
            try:
                wanted = _trained_tokens_shape(case, key, module)
            except FormatError as error:
                yield NotChecked(f"trainable_token_indices: {error.reason}")
                break
        elif wanted is not None and _resized(tensor, wanted) and _has_vocabulary_rows(key, case.base):
            continue
        if wanted is None or tensor.shape == wanted:
            continue
        messages.append((f"{_noun(key)} has the shape {shape(tensor.shape)}, the base needs {shape(wanted)}", key.name))
    yield from grouped(messages, case.weights_file, "tensor", OTHER_BASE)


def _resized(tensor: TensorInfo, wanted: tuple[int, ...]) -> bool:
    """Whether only the number of rows differs; for a vocabulary another rule reports that."""
    return len(tensor.shape) == 2 and tensor.shape[1:] == wanted[1:]


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


def _noun(key: Key) -> str:
    nouns = {
        "saved": "a saved weight",
        "base_layer": "the copy of the base's weight",
        "magnitude": "DoRA's magnitude",
        "trainable_tokens": "the trained tokens",
    }
    return nouns.get(key.part, "a bias")


def _base_shape(key: Key, module: BaseModule) -> tuple[int, ...] | None:
    """The shape that the base needs; None if it is unknown."""
    if key.part in {"saved", "base_layer"} and key.param == "weight":
        return (module.d_in, module.d_out) if module.kind != "linear" else (module.d_out, module.d_in)
    if (key.part == "saved" and key.param == "bias") or (key.part in VECTORS and module.kind != "embedding"):
        return (module.d_out,)
    return None


@rule("LC322", "vocabulary", Severity.ERROR, needs=("weights", "base", "companions"))
def vocabulary(case: Case) -> Iterator[Problem | NotChecked]:
    """The adapter is for a larger or smaller vocabulary than the base has.

    *Why is this bad?* PEFT refuses the tensors until the base is resized; vLLM and SGLang cannot resize it. A token
    beyond the base's last row is an index error in the middle of a request.

    *Fix*: serve a copy of the base whose embeddings were resized, or train without new tokens.
    """
    base = case.base
    assert base is not None
    if base.vocab_size is None:
        yield NotChecked("the base's vocabulary is unknown")
        return
    messages = []
    for key, tensor, module in _other_tensors(case):
        wanted = _base_shape(key, module) if key.part in {"saved", "base_layer"} else None
        if wanted and tensor.shape != wanted and _resized(tensor, wanted) and _has_vocabulary_rows(key, base):
            has = f"it has {tensor.shape[0]} rows, but the base's vocabulary has {base.vocab_size}"
            messages.append((has, key.name))
    hint = "serve a base whose embeddings were resized, or train without new tokens"
    yield from grouped(messages, case.weights_file, "tensor", hint)
    if not messages and (beyond := case.tokens_beyond_vocabulary()) is not None:
        yield Problem(*beyond, hint)
    yield from _tokens_beyond(case, base.vocab_size)


def _tokens_beyond(case: Case, tokens: int) -> Iterator[Problem]:
    """``trainable_token_indices`` beyond the vocabulary."""
    config = case.adapter.config
    chosen = config.trainable_token_indices if config is not None else None
    lists = chosen.values() if chosen is not None and not isinstance(chosen, tuple) else [chosen or ()]
    beyond = sorted({index for indices in lists for index in indices if index >= tokens})
    if config is not None and beyond:
        yield Problem(
            f"token {beyond[0]} is trained, but the base's vocabulary has {tokens}",
            case.in_config("trainable_token_indices"),
            OTHER_BASE,
        )


@rule("LC323", "tied-embeddings", Severity.WARNING, needs=("config", "weights", "base"))
def tied_embeddings(case: Case) -> Iterator[Problem]:
    """The base's embedding and head are one tensor, and the adapter changes only one of the two.

    *Why is this bad?* PEFT unties them as soon as they are merged or saved, and engines that tie them apply the change
    to both or to neither: the served adapter is not the one that was trained.

    *Fix*: train with ``ensure_weight_tying=True``, or exclude the embedding and the head.
    """
    config, base = case.config, case.base
    assert base is not None
    if not base.tied_embeddings or config.ensure_weight_tying:
        return
    touched = {key.module for key in case.adapter.keys.values() if key.module in base.modules}
    changed = sorted(one for one in touched if last_name(one) in EMBEDDING_NAMES | OUTPUT_NAMES)
    if len(changed) == 1:
        yield Problem(
            f"the base ties its embedding to its head, but only {changed[0]} is changed",
            Location(case.weights_file, changed[0]),
            "train with ensure_weight_tying=True, or exclude the embedding and the head",
        )
