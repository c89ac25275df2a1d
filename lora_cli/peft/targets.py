"""Which modules a config targets, and with which rank and scale, by PEFT's own rules.

Sources: PEFT 0.21 ``tuners/tuners_utils.py`` (``check_target_module_exists``, ``_maybe_include_all_linear_layers``,
``_inject_parameters``), ``tuners/lora/model.py`` (``_create_and_replace``), ``utils/other.py`` (``get_pattern_key``).
The modules of a mixture-of-experts model are those of transformers 5 (experts fused in parameters).
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lora_cli.adapter.config import LoraConfig
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.errors import FormatError
from lora_cli.peft.patterns import LITERAL, Endings, Matcher, matching_keys
from lora_cli.text import by_key

ALL_LINEAR = "all-linear"

EXPERTS = "experts"
"""The name of the module of fused experts, in every family that has one."""

T = TypeVar("T")

OUTPUT_NAMES = frozenset({"lm_head", "embed_out"})
"""Output embeddings of the families that we know, which ``all-linear`` leaves out."""

HEADS: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": ("score", "classifier"),
    "TOKEN_CLS": ("score", "classifier"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""The names of a task's trained head, which PEFT saves next to the factors whatever the config says."""

EMBEDDING_NAMES = frozenset({"embed_tokens", "lm_head"})
"""The names that ``ensure_weight_tying`` treats as embeddings."""

FIRST_INDEX = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.", re.DOTALL)
"""The first numbered component: the layer, not the expert within it."""

DEFAULT_TARGETS: Mapping[str, tuple[str, ...] | str] = {
    **dict.fromkeys(
        (
            *("bart", "opt", "gptj", "gpt_neo", "llama", "llama4", "mistral", "mixtral", "stablelm", "gemma", "gemma2"),
            *("gemma3_text", "qwen2", "qwen3"),
        ),
        ("q_proj", "v_proj"),
    ),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "layoutlm"), ("query", "value")),
    **dict.fromkeys(("bloom", "gpt_neox", "chatglm", "RefinedWebModel", "RefinedWeb", "falcon"), ("query_key_value",)),
    **dict.fromkeys(("t5", "mt5"), ("q", "v")),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    "blip-2": ("q", "v", "q_proj", "v_proj"),
    "deberta-v2": ("query_proj", "value_proj"),
    "deberta": ("in_proj",),
    "mpt": ("Wqkv",),
    "btlm": ("c_proj", "c_attn"),
    "codegen": ("qkv_proj",),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "gemma4": ".*language_model\\..*\\.(q_proj|v_proj)",
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "rwkv": ("key", "value", "receptance", "output"),
    "rwkv7": ("r_proj", "k_proj", "v_proj", "o_proj", "key", "value"),
}
"""PEFT's targets for a config without ``target_modules``, by the base's ``model_type``; a string is a regular
expression. Source: PEFT 0.21 ``utils/constants.py``."""


BARE = "FEATURE_EXTRACTION"

HEADLESS = re.compile(r"(?!Peft)\w+(?<!LMHead)(?<!Heads)(?<!MT)Model")
"""Classes of transformers without a head."""

OTHER_PREFIX = ("llama", "qwen2", "qwen3")
"""Families whose class for answering questions calls the model ``transformer`` and not ``model``."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The rank that a module's factors have, its alpha, and the factor ``s`` in ``s * B @ A``."""

    r: int
    lora_alpha: float
    scaling: float


def targeted(
    config: LoraConfig,
    modules: Iterable[str],
    *,
    linear: Collection[str] = (),
    model_type: str = "",
) -> frozenset[str]:
    """Those of ``modules`` (paths in the base model) that the config puts a LoRA on.

    ``linear`` are the linear and Conv1D ones, which ``target_modules="all-linear"`` chooses from. ``model_type``
    decides when ``target_modules`` is absent.

    Raises:
        FormatError: a pattern is no regular expression or takes too long; ``target_modules`` has a wrong type, or is
            absent with no default for ``model_type``.
    """
    targets = named_targets(config, linear, model_type)
    named = Endings(targets if not isinstance(targets, str) else ())
    matcher = Matcher(f"{config.file}: target_modules")
    is_excluded, in_chosen_layer = _exclusion(config), _layer_choice(config, matcher)
    return frozenset(
        module
        for module in modules
        if not is_excluded(module)
        and (
            matcher.full(targets, module)
            if isinstance(targets, str)
            else module in named.names or (named.ends(module) and in_chosen_layer(module))
        )
    )


def targeted_in(config: LoraConfig, base: BaseModel) -> frozenset[str]:
    """The modules of ``base`` that the config puts a LoRA on, with tied embeddings.

    Raises:
        FormatError: as ``targeted``.
    """
    linear = [path for path, module in base.modules.items() if module.kind != "embedding"]
    chosen = targeted(config, base.modules, linear=linear, model_type=base.model_type)
    return chosen | _tied(config, base)


def targeted_parameters(config: LoraConfig, parameters: Iterable[str]) -> tuple[str, ...]:
    """Those of ``parameters`` (paths in the base model) that ``target_parameters`` names, in the order given."""
    named = Endings(config.target_parameters or ())
    return tuple(path for path in parameters if path in named)


def wrapped_parameters(config: LoraConfig, parameters: Iterable[str]) -> dict[str, str]:
    """Where on disk the factors of each targeted parameter are: module path of the wrapper to parameter path.

    PEFT nests one wrapper per parameter around the module, the first parameter innermost: of two, the first has its
    factors under ``<module>.base_layer`` and the second under ``<module>``. ``parameters`` are in the module's order.
    """
    by_module = by_key((path.rpartition(".")[0], path) for path in targeted_parameters(config, parameters))
    return {
        module + ".base_layer" * depth: path
        for module, paths in by_module.items()
        for depth, path in enumerate(reversed(paths))
    }


def scales(config: LoraConfig, modules: Iterable[str]) -> dict[str, Scale]:
    """Rank, alpha and scaling of each module (or parameter path), as if it were targeted.

    Raises:
        FormatError: ``r``, ``lora_alpha`` or a pattern has the wrong type; the rank is not positive; a pattern is no
            regular expression or takes too long.
    """
    for name in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"):
        if name in config.errors:
            raise config.errors[name]
    modules = tuple(modules)
    ranks = _by_pattern(config.rank_pattern, modules, f"{config.file}: rank_pattern")
    alphas = _by_pattern(config.alpha_pattern, modules, f"{config.file}: alpha_pattern")
    found: dict[str, Scale] = {}
    for module in modules:
        r, alpha = ranks.get(module, config.r), alphas.get(module, config.lora_alpha)
        if r <= 0:
            raise FormatError(f"the rank must be positive, and is {r} for {module}", where=f"{config.file}: r")
        found[module] = Scale(r, alpha, alpha / math.sqrt(r) if config.use_rslora else alpha / r)
    return found


def _by_pattern(pattern: Mapping[str, T], modules: Sequence[str], where: str) -> dict[str, T]:
    """The value of the first key that matches each module, else of the module itself as a key."""
    matching = matching_keys(pattern, modules, where) if pattern else {}
    keys = {module: found[0] if found else module for module, found in matching.items()}
    return {module: pattern[key] for module, key in keys.items() if key in pattern}


def all_linear(base: BaseModel) -> tuple[str, ...]:
    """The modules that ``target_modules="all-linear"`` means."""
    return tuple(
        path
        for path, module in base.modules.items()
        if module.kind != "embedding" and path.rpartition(".")[2] not in OUTPUT_NAMES
    )


def named_targets(config: LoraConfig, linear: Collection[str], model_type: str) -> Collection[str] | str:
    """The ``target_modules`` that count: a regular expression, or names. ``linear`` is what ``all-linear`` means.

    Raises:
        FormatError: of a wrong type, or absent with no default for ``model_type``.
    """
    if "target_modules" in config.errors:
        raise config.errors["target_modules"]
    targets = config.target_modules
    if targets is None:
        targets = DEFAULT_TARGETS.get(model_type)
        if targets is None and config.target_parameters is None:
            raise FormatError(
                f"target_modules is absent, and PEFT has no default for {model_type or 'an unknown model type'}",
                where=f"{config.file}: target_modules",
            )
        return () if targets is None else targets
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        left_out = OUTPUT_NAMES.union(HEADS["SEQ_CLS"] if config.task_type == "SEQ_CLS" else ())
        return frozenset(path for path in linear if path.rpartition(".")[2] not in left_out)
    return targets


def _exclusion(config: LoraConfig) -> Callable[[str], bool]:
    """Whether ``exclude_modules`` or ``modules_to_save`` keeps a LoRA off a module."""
    excluding = Matcher(f"{config.file}: exclude_modules")
    saving = Matcher(f"{config.file}: modules_to_save")
    names = config.exclude_modules or ()
    named = Endings(names if not isinstance(names, str) else ())
    saved = config.modules_to_save or ()
    plain = frozenset(name for name in saved if name and "." not in name and LITERAL.fullmatch(name))
    others = [name for name in saved if name not in plain]
    if not names and not saved:
        return lambda _: False

    def is_excluded(module: str) -> bool:
        if isinstance(names, str):
            if excluding.full(names, module):
                return True
        elif module in named:
            return True
        return not plain.isdisjoint(module.split(".")) or any(saving.component(name, module) for name in others)

    return is_excluded


def _layer_choice(config: LoraConfig, matcher: Matcher) -> Callable[[str], bool]:
    """Whether ``layers_to_transform`` lets a module through."""
    layers = config.layers_to_transform
    if layers is None or layers == ():
        return lambda _: True
    chosen = frozenset((layers,) if isinstance(layers, int) else layers)
    patterns = (config.layers_pattern,) if isinstance(config.layers_pattern, str) else config.layers_pattern

    def is_chosen(module: str) -> bool:
        if not config.layers_pattern or patterns is None:
            found = FIRST_INDEX.match(module)
            index = int(found["idx"]) if found and len(found["idx"]) < 10 else None
        else:
            indexes = (matcher.layer_index(pattern, module) for pattern in patterns)
            index = next((index for index in indexes if index is not None), None)
        return index in chosen

    return is_chosen


def _tied(config: LoraConfig, base: BaseModel) -> frozenset[str]:
    """The embedding and the output tied to it, when ``ensure_weight_tying`` puts one shared LoRA on both."""
    if not (config.ensure_weight_tying and base.tied_embeddings):
        return frozenset()
    if any(name.rpartition(".")[2] in EMBEDDING_NAMES for name in config.modules_to_save or ()):
        return frozenset()
    targets = named_targets(config, (), base.model_type)
    if isinstance(targets, str):
        matcher = Matcher(f"{config.file}: target_modules")
        wanted = any(matcher.full(targets, name) for name in EMBEDDING_NAMES)
    else:
        wanted = any(name.rpartition(".")[2] in EMBEDDING_NAMES for name in targets)
    if not wanted:
        return frozenset()
    embedding = [path for path, module in base.modules.items() if module.kind == "embedding"][:1]
    return frozenset(embedding + [path for path in base.modules if path.rpartition(".")[2] in OUTPUT_NAMES])


def for_task(base: BaseModel, task: str | None, named: Collection[str], trained_class: str = "") -> BaseModel:
    """``base`` as its class for ``task`` has it: with another head than the language model's, or none.

    A base's config does not say which class an adapter was trained on; ``task_type`` does, the ``trained_class`` of its
    ``auto_mapping``, and the names of its modules, which are ``named``. In a class without a head (``BertModel``) these
    do not begin with the model's own. Sources: transformers 5 (``For…`` classes), PEFT 0.21 ``peft_model.py``.

    The base itself for text generation, and without a head where the names are text generation's even so.
    """
    if task in HEADS:
        within = {path: module for path, module in base.modules.items() if not _of_head(path)}
        headed = replace(base, modules=within | _pooler(base, task))
        return _under(headed, named, "transformer.") if base.model_type in OTHER_PREFIX else headed
    bare = task == BARE or any(HEADLESS.fullmatch(one) for one in (base.architecture, trained_class))
    return _under(base, named, "") if bare else base


def _pooler(base: BaseModel, task: str | None) -> dict[str, BaseModule]:
    """The pooler that BERT and RoBERTa have for tasks over a whole sequence."""
    has = base.model_type in {"bert", "roberta"} if task == BARE else (task, base.model_type) == ("SEQ_CLS", "bert")
    pooler = BaseModule(base.hidden_size, base.hidden_size, bias=True)
    return {f"{base.model_type}.pooler.dense": pooler} if has else {}


def _under(base: BaseModel, named: Collection[str], prefix: str) -> BaseModel:
    """``base`` with another first component, if more of the adapter's names are those then."""
    model = next((path for path in base.modules if not _of_head(path)), "").partition(".")[0] + "."

    def moved(paths: Mapping[str, T]) -> dict[str, T]:
        return {prefix + path.removeprefix(model): value for path, value in paths.items() if not _of_head(path)}

    modules = moved({**base.modules, **(_pooler(base, BARE) if not prefix else {})})
    if sum(path in modules for path in named) <= sum(path in base.modules for path in named):
        return base
    return replace(base, modules=modules, parameters=moved(base.parameters))


def _of_head(path: str) -> bool:
    """Whether it belongs to the language model's head: ``lm_head``, RoBERTa's ``lm_head.dense``, BERT's ``cls``."""
    parts = path.split(".")
    return parts[-1] in OUTPUT_NAMES or parts[0] in OUTPUT_NAMES or parts[0] == "cls"
