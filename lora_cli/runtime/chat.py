"""A prompt as token ids and an answer as text, with the base's own tokenizer and chat template."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lora_cli.errors import FormatError, UsageError


class Chat:
    """The tokenizer of the base in ``directory``, through transformers: no network, no code of its own.

    Raises:
        FormatError: the directory has no tokenizer that transformers can load.
    """

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FormatError(
                f"has no tokenizer that transformers can load: {said}",
                where=str(directory),
                hint="put the base's tokenizer files beside its config.json, or leave --prompt out",
            ) from error

    def ids(self, prompt: str) -> list[int]:
        """Token ids of a user's turn in the tokenizer's chat template, or of the plain text without one.

        Raises:
            UsageError: it is no text.
        """
        _check_text(prompt)
        if self._tokenizer.chat_template:
            turn = [{"role": "user", "content": prompt}]
            text = self._tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self._tokenizer(prompt)["input_ids"])

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text as it is, with what the tokenizer puts before any. Raises ``UsageError`` as ``ids``."""
        _check_text(text)
        return list(self._tokenizer(text)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """What token ids say, without special tokens and with all its spaces."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def text(self, ids: Collection[int]) -> str:
        """What token ids say, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def stops(self, generation_config: Any) -> frozenset[int]:
        """The token ids that end an answer, by the tokenizer and by the model's ``generation_config``."""
        own = self._tokenizer.eos_token_id
        return stops(generation_config) | ({own} if isinstance(own, int) else set())


def _check_text(text: str) -> None:
    """A tokenizer raises a TypeError at half a surrogate pair, which JSON and a command line can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the prompt is no Unicode text: character {error.start} is half a surrogate pair") from error


def stops(generation_config: Any) -> frozenset[int]:
    """The token ids that end an answer by the model's ``generation_config`` alone."""
    ends = getattr(generation_config, "eos_token_id", None)
    return frozenset(end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int))
