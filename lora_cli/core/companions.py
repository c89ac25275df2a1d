"""The files next to an adapter's weights, parsed, and the tools that wrote the adapter as far as these files say.

Of tools nothing is guessed: a base of ``unsloth/…`` says nothing of who trained on it, and a config of few fields not
which tool left out the others. Sources: the cards that TRL (``trainer/utils.py``: ``generate_model_card``), axolotl
(``train.py``), Unsloth (``save.py``: ``MODEL_CARD``), LLaMA-Factory (``train/trainer_utils.py``), ms-swift
(``tuners/base.py``), mergekit (``card.py``) and PEFT (``peft_model.py``) write, and the files that they leave.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lora_cli.core.json_schema import EXCLUDED
from lora_cli.core.lora_config import LoraConfig

CARD_FILE = "README.md"
WORDS = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
LISTS = ("base_model", "language", "datasets", "tags")
"""Keys of a model card, as the Hub has them (``huggingface_hub``'s ``ModelCardData``)."""


@dataclass(frozen=True, slots=True)
class Companions:
    """Read, and never rendered, imported or run.

    ``templates`` maps where a chat template is (``"tokenizer_config.json: chat_template"``) to its text, ``code`` where
    classes are named that a loader would import to what is named there. ``added_tokens`` are the tokens of
    ``added_tokens.json`` with their ids, None without that file. ``unread`` says of a file why it could not be read,
    ``beyond`` are those of which there is more than any adapter has. ``pickles`` maps each pickle next to the weights
    to what is wrong with it, or to nothing; ``pickles_left`` says which could not be looked at.
    """

    templates: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    added_tokens: Mapping[str, int] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    beyond: Sequence[str] = ()
    pickles: Mapping[str, str] = field(default_factory=dict)
    pickles_left: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """The front matter of README.md. What it does not say is empty."""

    license: str = ""
    license_name: str = ""
    license_link: str = ""
    library_name: str = ""
    pipeline_tag: str = ""
    base_model: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    text: str = field(default="", metadata=EXCLUDED)
    """What is behind the front matter, as far as it was read."""
    error: str = ""
    """Why the front matter was not read; empty if it was."""


PEFT = "PEFT"


@dataclass(frozen=True, slots=True)
class Writer:
    """A tool that helped to write the adapter, as far as its files say."""

    tool: str
    version: str = ""
    """May be empty."""
    told_by: str = ""
    """The file that says so, and what in it."""


TAGS = {
    "trl": "TRL",
    "axolotl": "axolotl",
    "unsloth": "Unsloth",
    "llama-factory": "LLaMA-Factory",
    "llamafactory": "LLaMA-Factory",
    "ms-swift": "ms-swift",
    "torchtune": "torchtune",
    "openrlhf": "OpenRLHF",
    "autotrain": "AutoTrain",
    "mergekit": "mergekit",
    "h2o-llmstudio": "H2O LLM Studio",
}
"""The tool for a tag of a model card. ``generated_from_trainer`` is not here: other tools build on that trainer."""

SENTENCES = (
    ("TRL", "It has been trained using [TRL]"),
    ("axolotl", 'alt="Built with Axolotl"'),
    ("Unsloth", "trained 2x faster with [Unsloth]"),
    ("mergekit", "It was extracted using [mergekit]"),
)
"""The tool for a sentence in the text of a card, from the tools' own templates."""

FILES = {
    "additional_config.json": "ms-swift",
    "sft_args.json": "ms-swift",
    "llamaboard_config.yaml": "LLaMA-Factory",
    "torchtune_config.yaml": "torchtune",
    "lora_train_meta.json": "verl",
}
"""The tool for a file next to the weights, where only one tool writes a file of that name."""

TRAINER_TAG, TRAINER = "generated_from_trainer", "transformers Trainer"

VERSIONS = {
    PEFT: re.compile(r"^- PEFT:? ([\w.+-]{1,40})", re.MULTILINE),
    "TRL": re.compile(r"^- TRL:? ([\w.+-]{1,40})", re.MULTILINE),
    "ms-swift": re.compile(r"^- SWIFT ([\w.+-]{1,40})", re.MULTILINE),
    "axolotl": re.compile(r"^axolotl version: `([\w.+-]{1,40})`", re.MULTILINE),
    TRAINER: re.compile(r"^- Transformers:? ([\w.+-]{1,40})", re.MULTILINE),
}
"""How a card says the version of a tool."""

SURE = ("ms-swift", "axolotl")
"""Tools of which a version is enough: others' versions are in cards of tools that build on them."""


def writers_of(config: LoraConfig | None, files: Iterable[str], card: Card | None) -> tuple[Writer, ...]:
    """Every tool that is found, each once, PEFT first; nothing if none is found. ``files`` are paths."""
    found: dict[str, Writer] = {}
    for writer in (*_from_config(config), *_from_files(files), *_from_card(card)):
        known = found.get(writer.tool)
        found[writer.tool] = known if known is not None and (known.version or not writer.version) else writer
    if card is not None and TRAINER_TAG in card.tags and found.keys() <= {PEFT}:
        found[TRAINER] = Writer(TRAINER, _version(card, TRAINER), f"{CARD_FILE}: tags")
    return tuple(sorted(found.values(), key=lambda writer: writer.tool != PEFT))


def _from_config(config: LoraConfig | None) -> Iterator[Writer]:
    if config is None:
        return
    if config.peft_version:
        yield Writer(PEFT, config.peft_version[:40], f"{config.file}: peft_version")
    if config.auto_mapping is not None and config.auto_mapping.get("unsloth_fixed") is True:
        yield Writer("Unsloth", told_by=f"{config.file}: auto_mapping")


def _from_files(files: Iterable[str]) -> Iterator[Writer]:
    paths = set(files)
    for file, tool in FILES.items():
        if file in paths:
            yield Writer(tool, told_by=file)
    if {"adapter_model.pt", "adapter_model.safetensors"} <= paths:  # its own names beside PEFT's
        yield Writer("torchtune", told_by="adapter_model.pt next to adapter_model.safetensors")


def _from_card(card: Card | None) -> Iterator[Writer]:
    if card is None:
        return
    if version := _version(card, PEFT):
        yield Writer(PEFT, version, f"{CARD_FILE}: framework versions")
    for tag in card.tags:
        if (tool := TAGS.get(tag.lower())) is not None:
            yield Writer(tool, _version(card, tool), f"{CARD_FILE}: tags")
    for tool, sentence in SENTENCES:
        if sentence in card.text:
            yield Writer(tool, _version(card, tool), f"{CARD_FILE}: text")
    for tool in SURE:
        if version := _version(card, tool):
            yield Writer(tool, version, f"{CARD_FILE}: text")


def _version(card: Card, tool: str) -> str:
    found = VERSIONS[tool].search(card.text) if tool in VERSIONS else None
    return found[1] if found else ""
