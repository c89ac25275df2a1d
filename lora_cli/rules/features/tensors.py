"""Features that the names of tensors show, and the files next to them."""

from collections.abc import Callable, Iterator

from lora_cli.adapter.adapter import SHARDED
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import Key, last_name
from lora_cli.engines.name_resolution import HEADS
from lora_cli.engines.profile import VOCABULARY
from lora_cli.finding import Location
from lora_cli.peft.match import is_fused
from lora_cli.rules.features.feature import Detect, EngineCase, Found
from lora_cli.text import counted, cut, names

CLASSES_OF = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    None: "ForSequenceClassification",
}
"""Ends of the names of the classes for PEFT's tasks with a classification head; without a task it may be such a one."""


def has_tensors(noun: str, is_meant: Callable[[Key], bool]) -> Detect:
    """A detector of tensors that are not factors, by their names."""

    def detect(case: EngineCase) -> Iterator[Found]:
        found = [key.name for key in case.other_keys if is_meant(key)]
        if found:
            message = f"there {'is' if len(found) == 1 else 'are'} {counted(len(found), noun)}: {names(found, 2)}"
            yield Found(message, case.in_weights(found[0]))

    return detect


def is_saved(key: Key) -> bool:
    """Whether it is a whole parameter of the base; the biases of ``bias="all"`` are ``bias``'s."""
    return key.part == "saved" and (key.param != "bias" or last_name(key.module) in VOCABULARY | HEADS)


kasa = has_tensors("tensor of a variant", lambda key: key.part in {"diag", "variant"})
saved_vocabulary = has_tensors("saved weight", lambda key: is_saved(key) and last_name(key.module) in VOCABULARY)
saved_other = has_tensors("saved weight", lambda key: is_saved(key) and last_name(key.module) not in VOCABULARY | HEADS)
_saved_heads = has_tensors("saved weight", lambda key: is_saved(key) and last_name(key.module) in HEADS)
trained_tokens = has_tensors("tensor of trained tokens", lambda key: key.part == "trainable_tokens")


def saved_head(case: EngineCase) -> Iterator[Found]:
    """A whole classification head, unless the engine takes the head of the base's class from adapters.

    Without a base, that class is the one which the config was written for, as far as it tells.
    """
    base = case.base
    if not case.profile.takes_head(base.architecture if base is not None else _class_of(case.adapter.config)):
        yield from _saved_heads(case)


def _class_of(config: LoraConfig | None) -> str:
    """The class of the base that the config names, or the end of its name that the task has."""
    if config is None:
        return ""
    if config.base_class and not config.base_class.startswith("PeftModel"):
        return config.base_class
    return CLASSES_OF.get(config.task_type, "")


def added_tokens(case: EngineCase) -> Iterator[Found]:
    """Tokens of ``added_tokens.json`` with ids beyond the base's vocabulary."""
    if found := case.tokens_beyond_vocabulary():
        yield Found(*found)


def pt_alone(case: EngineCase) -> Iterator[Found]:
    """Weights in ``adapter_model.pt``, without one of the two files that PEFT writes."""
    weights = case.adapter.weight_files
    if weights and all(path.endswith(".pt") for path in weights):
        yield Found(f"the weights are in {cut(weights[0])}", Location(cut(weights[0])))


def sharded(case: EngineCase) -> Iterator[Found]:
    """Weights split over several files."""
    foreign = case.adapter.foreign
    if foreign is not None and foreign.format is SHARDED:
        yield Found("the weights are sharded", Location(cut(foreign.file)))


def stray_weights(case: EngineCase) -> Iterator[Found]:
    """Other safetensors files in the adapter's own folder."""
    weights, stray = case.adapter.weight_files, case.adapter.stray_weights
    if stray:
        message = f"{names(stray)} {'is' if len(stray) == 1 else 'are'} next to {weights[0]}"
        yield Found(message, Location(cut(stray[0])))


def rank_not_r(case: EngineCase) -> Iterator[Found]:
    """Factors of another rank than ``r``."""
    config = case.adapter.config
    if config is None or "r" not in config.given or "r" in config.mistyped:
        return
    pairs = [(m, pair.rank) for m, pair in case.adapter.pairs.items() if not is_fused(case.adapter, m)]
    other = [(module, rank) for module, rank in pairs if rank not in {None, config.r}]
    if other:
        module, rank = other[0]
        whose = f"{cut(module)}{f' and {len(other) - 1} more' if len(other) > 1 else ''}"
        yield Found(f"the rank of {whose} is {rank}, but r is {config.r}", Location(config.file, "r"))
