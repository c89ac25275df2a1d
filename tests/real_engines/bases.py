"""Tiny bases that a real engine can serve: heads of 32, weights and a tokenizer on disk."""

from pathlib import Path
from typing import Any

from tests.base.configs import SMALL
from tests.corpus.bases import Base
from tests.corpus.peft_judge import quiet

HIDDEN, VOCABULARY = 64, 96
HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": HIDDEN // 2}
SIZES = {**SMALL, **HEADS, "hidden_size": HIDDEN, "vocab_size": VOCABULARY, "pad_token_id": 0}
UNTIED = {**SIZES, "tie_word_embeddings": False}
TIED = {**SIZES, "tie_word_embeddings": True}

SERVED: dict[str, Base] = {
    family: Base(family, fields)
    for family, fields in {
        "llama": UNTIED,
        "mistral": UNTIED,
        "qwen2": UNTIED,
        "qwen3": TIED,
        "phi3": UNTIED,
        "gemma2": TIED,
    }.items()
}
"""Between them: separate and fused projections, biases, norms on heads, tied and untied, an own scale and soft caps."""


def save(base: Base, directory: Path) -> Path:
    """The base as an engine's ``--model`` takes it: config, weights and a tokenizer of one word a token."""
    with quiet():
        base.model().save_pretrained(directory)
    return write_words(directory)


def write_words(directory: Path) -> Path:
    """A tokenizer of one word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    with quiet():
        words = Tokenizer(models.WordLevel({f"t{number}": number for number in range(VOCABULARY)}, unk_token="t0"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="t0", pad_token="t0").save_pretrained(directory)
    return directory
