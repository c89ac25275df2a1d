"""Which modules a config targets, and with which rank and scale, by PEFT's own rules.

Sources: PEFT 0.21 ``tuners/tuners_utils.py`` (``check_target_module_exists``, ``_maybe_include_all_linear_layers``,
``_inject_parameters``), ``tuners/lora/model.py`` (``_create_and_replace``), ``utils/other.py`` (``get_pattern_key``).
The modules of a mixture-of-experts model are those of transformers 5 (experts fused in parameters).
"""

import math
import re
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from lora_cli.adapter.adapter import WRAPPER, last_name
from lora_cli.adapter.config import LoraConfig
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.errors import FormatError
from lora_cli.text import by_key

LIMIT_S = 3.0
"""Seconds of this thread's processor time for all matching for one adapter: a busy machine refuses no adapter."""

MOST_SIZE = 200_000
"""Characters of all patterns of one adapter times their counted repetitions: ``regex`` unrolls them, 400 bytes each."""

MOST_COMPARED = 12_000_000
"""Comparisons of names with modules that one question may take: about three seconds."""

TOO_SLOW = "PEFT itself would hang on it; use fewer patterns without nested repetitions, or list the modules"

WHOLE = "{}"
"""``re.fullmatch``: how PEFT reads a text as ``target_modules`` or ``exclude_modules``."""
END = r"(.*\.)?({})$"
"""How PEFT reads the keys of ``rank_pattern`` and ``alpha_pattern``; this and the next two with ``re.match``."""
COMPONENT = r"(^|.*\.){}($|\..*)"
"""How PEFT reads ``modules_to_save``."""
LAYER = r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
"""How PEFT reads ``layers_pattern``: ``idx`` is the layer."""

LITERAL = re.compile(r"[\w.\- ]*", re.ASCII)
"""A name, maybe with dots, which match any character."""

_COUNTED = re.compile(r"\{([0-9]*)(?:,([0-9]*))?\}")
_READ_OTHERWISE = re.compile(r"\{(?![0-9]+\}|[0-9]*,[0-9]*\})|\[:")
"""A brace that counts nothing (text to ``re``, errors that ``regex`` allows), and the start of a class by its name."""


@dataclass(slots=True)
class Deadline:
    """What one adapter's matching has left, the patterns compiled for it, and their size."""

    left_s: float
    compiled: dict[str, Any] = field(default_factory=dict)
    size: int = 0


_CURRENT: ContextVar[Deadline | None] = ContextVar("matching", default=None)


@contextmanager
def one_deadline() -> Iterator[Deadline]:
    """All matching in here has one deadline, whoever asks; within another such block it is that one's."""
    deadline = _CURRENT.get() or Deadline(LIMIT_S)
    token = _CURRENT.set(deadline)
    try:
        yield deadline
    finally:
        _CURRENT.reset(token)


@contextmanager
def timed(where: str) -> Iterator[Deadline]:
    """What is done in here takes from the time that is left. ``where`` names file and field in the error.

    Raises:
        FormatError: there is none left.
    """
    deadline, begun = _CURRENT.get() or Deadline(LIMIT_S), time.thread_time()
    try:
        if deadline.left_s <= 0:
            raise TimeoutError  # noqa: TRY301 - as regex does
        yield deadline
    except TimeoutError as error:
        deadline.left_s = 0.0  # by the clock of regex, which may be ahead of ours
        raise FormatError(f"matching takes longer than {LIMIT_S:g} s", where=where, hint=TOO_SLOW) from error
    finally:
        deadline.left_s -= time.thread_time() - begun


def match(how: str, pattern: str, name: str, where: str) -> Any:
    """The match of a pattern of the config, read as ``how`` says, or None.

    Raises:
        FormatError: it is no pattern, is too large, or is not matched by the deadline.
    """
    import regex

    with timed(where) as deadline:
        framed = how.replace("{}", pattern, 1)
        if (compiled := deadline.compiled.get(framed)) is None:
            said, size = repr(pattern if len(pattern) <= 80 else pattern[:79] + "…"), len(pattern)
            for counts in _COUNTED.findall(pattern):
                size = min(size * max([1, *(int(count[:9]) for count in counts if count)]), MOST_SIZE + 1)
            deadline.size += size
            if deadline.size > MOST_SIZE:
                raise FormatError(f"with {said}, the regular expressions are too large", where=where)
            try:
                with warnings.catch_warnings():
                    # Both warn of what a later version may read as a set operation; no user of ours can mend that.
                    warnings.simplefilter("ignore")
                    re.compile(framed)
                    compiled = regex.compile(framed, cache_pattern=size < 1000)
            except (re.error, regex.error, RecursionError, OverflowError) as error:
                raise FormatError(f"{said} is not a regular expression: {error}", where=where) from error
            if _READ_OTHERWISE.search(re.sub(r"\\.", "", pattern, flags=re.DOTALL)):
                raise FormatError(f"{said} has a brace that counts nothing, or [:", where=where)
            deadline.compiled[framed] = compiled
        return (compiled.fullmatch if how == WHOLE else compiled.match)(name, timeout=deadline.left_s)


def matching_keys(keys: Iterable[str], modules: Iterable[str], where: str) -> dict[str, list[str]]:
    """The keys of ``rank_pattern`` or ``alpha_pattern`` that match each module, in their order.

    Raises:
        FormatError: as ``match``.
    """
    modules, places = tuple(modules), {key: place for place, key in enumerate(keys)}
    patterns = [key for key in places if not LITERAL.fullmatch(key)]
    # A name is looked up by where its dots are, which are any character to PEFT.
    names: dict[tuple[int, ...], set[str]] = {}
    for key in places.keys() - patterns:
        names.setdefault((len(key), *(at for at, char in enumerate(key) if char == ".")), set()).add(key)
    found = {module: [key for key in patterns if match(END, key, module, where)] for module in modules}
    with timed(where):
        if len(names) * len(modules) > MOST_COMPARED:
            raise TimeoutError
        for module, matched in found.items():
            for (length, *dots), alike in names.items():
                start = len(module) - length
                if start == 0 or (start > 0 and module[start - 1] == "."):
                    end = module[start:]
                    for at in dots if end not in alike else ():
                        end = f"{end[:at]}.{end[at + 1 :]}"
                    matched.extend([end] if end in alike else [])
            matched.sort(key=places.__getitem__)
    return found


def endings(module: str) -> Iterator[str]:
    """The path of a module, and every ending of it after a dot, the longest first."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module


class Endings:
    """A module is in here where it has one of the names, or ends in one after a dot."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._longest = max(map(len, self.names), default=0)

    def __contains__(self, module: str) -> bool:
        ends = islice(endings(module[-self._longest - 1 :]), 1, None)
        return module in self.names or any(end in self.names for end in ends)


ALL_LINEAR = "all-linear"

EXPERTS = "experts"
"""The name of the module of fused experts, in every family that has one."""

OUTPUT_NAMES = frozenset({"lm_head", "embed_out"})
"""Output embeddings of the families that we know, which ``all-linear`` leaves out."""

HEADS = {**dict.fromkeys(("SEQ_CLS", "TOKEN_CLS"), ("score", "classifier")), "QUESTION_ANS": ("qa_outputs",)}
"""The names of a task's trained head, which PEFT saves next to the factors whatever the config says."""

EMBEDDING_NAMES = frozenset({"embed_tokens", "lm_head"})
"""The names that ``ensure_weight_tying`` treats as embeddings."""

FIRST_INDEX = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.", re.DOTALL)
"""The first numbered component: the layer, not the expert within it."""

DEFAULT_TARGETS: Mapping[str, tuple[str, ...] | str] = {
    **dict.fromkeys(("bart", "opt", "gptj", "gpt_neo", "llama", "llama4", "mistral", "mixtral"), ("q_proj", "v_proj")),
    **dict.fromkeys(("stablelm", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"), ("q_proj", "v_proj")),
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

OTHER_PREFIX = ("llama", "qwen2", "qwen3")
"""Families whose class for answering questions calls the model ``transformer`` and not ``model``."""

POOLERS = {"bert": ("SEQ_CLS", BARE), "roberta": (BARE,)}
"""Tasks over a whole sequence, for which these families have a pooler."""

HEADLESS = re.compile(r"(?!Peft)\w+(?<!LMHead)(?<!Heads)(?<!MT)Model")
"""Classes of transformers without a head."""

SCALE_FIELDS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
"""The fields that ranks and scales follow from."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The rank that a module's factors have, its alpha, and the factor ``s`` in ``s * B @ A``."""

    r: int
    lora_alpha: float
    scaling: float


def targeted(
    config: LoraConfig, modules: Iterable[str], *, linear: Collection[str] = (), model_type: str = ""
) -> frozenset[str]:
    """Those of ``modules`` (paths in the base model) that the config puts a LoRA on.

    ``linear`` are the linear and Conv1D ones, which ``target_modules="all-linear"`` chooses from. ``model_type``
    decides when ``target_modules`` is absent.

    Raises:
        FormatError: a pattern is no regular expression or takes too long; ``target_modules`` has a wrong type, or is
            absent with no default for ``model_type``.
    """
    targets, excluded, where = _named_targets(config, linear, model_type), config.exclude_modules or (), config.file
    named, unnamed = (Endings(names if not isinstance(names, str) else ()) for names in (targets, excluded))
    saved, layers = config.modules_to_save or (), config.layers_to_transform
    plain = frozenset(name for name in saved if name and "." not in name and LITERAL.fullmatch(name))
    others = [name for name in saved if name not in plain]
    chosen = frozenset((layers,) if isinstance(layers, int) else layers or ())

    found = set[str]()
    for module in modules:
        if isinstance(excluded, str) and match(WHOLE, excluded, module, f"{where}: exclude_modules"):
            continue
        if module in unnamed or not plain.isdisjoint(module.split(".")):
            continue
        if any(match(COMPONENT, name, module, f"{where}: modules_to_save") for name in others):
            continue
        if isinstance(targets, str):
            is_targeted = match(WHOLE, targets, module, f"{where}: target_modules") is not None
        else:
            is_targeted = module in named and (not chosen or module in named.names or _layer(config, module) in chosen)
        found |= {module} if is_targeted else set()
    return frozenset(found)


def _named_targets(config: LoraConfig, linear: Collection[str], model_type: str) -> Collection[str] | str:
    """The ``target_modules`` that count: a regular expression, or names. ``linear`` is what ``all-linear`` means."""
    if "target_modules" in config.errors:
        raise config.errors["target_modules"]
    targets = config.target_modules
    if targets is None:
        targets = DEFAULT_TARGETS.get(model_type)
        if targets is None and config.target_parameters is None:
            why = f"target_modules is absent, and PEFT has no default for {model_type or 'an unknown model type'}"
            raise FormatError(why, where=f"{config.file}: target_modules")
    elif isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        left_out = OUTPUT_NAMES.union(HEADS["SEQ_CLS"] if config.task_type == "SEQ_CLS" else ())
        targets = tuple(path for path in linear if last_name(path) not in left_out)
    return targets or ()


def _layer(config: LoraConfig, module: str) -> int | None:
    """The layer that ``layers_to_transform`` takes a module to be in."""
    patterns, where = config.layers_pattern, f"{config.file}: target_modules"
    if patterns:
        tried = (match(LAYER, one, module, where) for one in ([patterns] if isinstance(patterns, str) else patterns))
        found = next((one for one in tried if one is not None and len(one["idx"]) < 10), None)
    else:
        found = FIRST_INDEX.match(module)
    return int(found["idx"]) if found and len(found["idx"]) < 10 else None


def targeted_in(config: LoraConfig, base: BaseModel) -> frozenset[str]:
    """The modules of ``base`` that the config puts a LoRA on, with the embedding and the output that share one.

    Raises:
        FormatError: as ``targeted``.
    """
    linear = [path for path, module in base.modules.items() if module.kind != "embedding"]
    chosen = targeted(config, base.modules, linear=linear, model_type=base.model_type)
    saved = {last_name(name) for name in config.modules_to_save or ()}
    if not (config.ensure_weight_tying and base.tied_embeddings) or saved & EMBEDDING_NAMES:
        return chosen
    targets = _named_targets(config, (), base.model_type)
    if isinstance(targets, str):
        is_tied = any(match(WHOLE, targets, name, f"{config.file}: target_modules") for name in EMBEDDING_NAMES)
    else:
        is_tied = any(last_name(name) in EMBEDDING_NAMES for name in targets)
    embedding = [path for path, module in base.modules.items() if module.kind == "embedding"][:1]
    outputs = [path for path in base.modules if last_name(path) in OUTPUT_NAMES]
    return chosen.union(embedding, outputs) if is_tied else chosen


def targeted_parameters(config: LoraConfig, parameters: Iterable[str]) -> tuple[str, ...]:
    """Those of ``parameters`` (paths in the base model) that ``target_parameters`` names, in the order given."""
    named = Endings(config.target_parameters or ())
    return tuple(path for path in parameters if path in named)


def wrapped_parameters(config: LoraConfig, parameters: Iterable[str]) -> dict[str, str]:
    """Where on disk the factors of each targeted parameter are: module path of the wrapper to parameter path.

    PEFT nests one wrapper per parameter around the module, the first parameter innermost: of two, the first has its
    factors under ``<module>.base_layer`` and the second under ``<module>``. ``parameters`` are in the module's order.
    """
    nested = by_key((path.rpartition(".")[0], path) for path in targeted_parameters(config, parameters))
    return {module + WRAPPER * depth: one for module, paths in nested.items() for depth, one in enumerate(paths[::-1])}


def scales(config: LoraConfig, modules: Iterable[str]) -> dict[str, Scale]:
    """Rank, alpha and scaling of each module (or parameter path), as if it were targeted.

    Of a pattern the first key that matches a module counts, else the module itself as a key.

    Raises:
        FormatError: ``r``, ``lora_alpha`` or a pattern has the wrong type; the rank is not positive; a pattern is no
            regular expression or takes too long.
    """
    for name in SCALE_FIELDS:
        if name in config.errors:
            raise config.errors[name]
    modules, found = tuple(modules), dict[str, Scale]()
    rank_keys, alpha_keys = (
        matching_keys(pattern, modules, f"{config.file}: {name}") if (pattern := getattr(config, name)) else {}
        for name in ("rank_pattern", "alpha_pattern")
    )
    for module in modules:
        r = config.rank_pattern.get((rank_keys.get(module) or [module])[0], config.r)
        alpha = config.alpha_pattern.get((alpha_keys.get(module) or [module])[0], config.lora_alpha)
        if r <= 0:
            raise FormatError(f"the rank must be positive, and is {r} for {module}", where=f"{config.file}: r")
        found[module] = Scale(r, alpha, alpha / math.sqrt(r) if config.use_rslora else alpha / r)
    return found


def for_task(base: BaseModel, task: str | None, named: Collection[str], trained_class: str = "") -> BaseModel:
    """``base`` as its class for ``task`` has it: with another head than the language model's, or none.

    A base's config does not say which class an adapter was trained on; ``task_type`` does, the ``trained_class`` of its
    ``auto_mapping``, and the names of its modules, which are ``named``. In a class without a head (``BertModel``) these
    do not begin with the model's own. Sources: transformers 5 (``For…`` classes), PEFT 0.21 ``peft_model.py``.

    The base itself for text generation, and without a head where the names are text generation's even so.
    """
    is_headless = task == BARE or any(HEADLESS.fullmatch(one) for one in (base.architecture, trained_class))
    if task not in HEADS and not is_headless:
        return base

    def is_inside(path: str) -> bool:  # not of a head: lm_head, RoBERTa's lm_head.dense, BERT's cls
        first = path.partition(".")[0]
        return first != "cls" and OUTPUT_NAMES.isdisjoint((first, last_name(path)))

    modules = {path: module for path, module in base.modules.items() if is_inside(path)}
    root = next(iter(modules), "").partition(".")[0] + "."
    if (task if task in HEADS else BARE) in POOLERS.get(base.model_type, ()):
        modules[f"{root}pooler.dense"] = BaseModule(base.hidden_size, base.hidden_size, bias=True)
    usual, prefix = replace(base, modules=modules) if task in HEADS else base, "transformer." if task in HEADS else ""
    if task in HEADS and base.model_type not in OTHER_PREFIX:
        return usual
    modules = {prefix + path.removeprefix(root): module for path, module in modules.items()}
    parameters = {prefix + path.removeprefix(root): shape for path, shape in base.parameters.items()}
    other = replace(base, modules=modules, parameters=parameters)
    return other if len(other.modules.keys() & named) > len(usual.modules.keys() & named) else usual
