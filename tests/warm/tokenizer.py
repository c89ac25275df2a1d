"""A tokenizer of words for the tiny models."""

from pathlib import Path
from typing import Any

from tests.making import VOCAB

WORDS = ("hello", "world", "what", "is", "the", "capital", "of", "user", "assistant")


def write_tokenizer(directory: Path) -> None:
    """Ids 3 to 11 are ``WORDS``, the others ``w<id>``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: 3 + i for i, word in enumerate(WORDS)}
    vocabulary |= {f"w{i}": i for i in range(len(vocabulary), VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.save_pretrained(directory)
