"""The full model of a plan. The base's outputs are computed once, and every adapter is compared with them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_cli.errors import FormatError, UsageError
from lora_cli.results import Answers, Moved
from lora_cli.warm.base_weights import check_checkpoint
from lora_cli.warm.composed import ComposedModel, Slot, load_model, moved
from lora_cli.warm.generation import Decode, greedy
from lora_cli.warm.memory import available_bytes, refuse_if_short
from lora_cli.warm.models import causal_model, outline
from lora_cli.warm.plan import Plan


def dummy_model(config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device, seed: int) -> nn.Module:
    """The causal language model that ``config`` (a ``config.json``) describes, initialised from ``seed``.

    Raises:
        FormatError: transformers makes no model of it.
        MachineError: ``device`` has no room for its weights.
    """
    drawn = outline(config, partial(causal_model, dtype=dtype))
    needed = sum(one.numel() * one.element_size() for one in drawn.parameters())
    refuse_if_short("the base's weights", needed, available_bytes(device), "--forward modules, or a smaller base")
    with torch.random.fork_rng(), device:
        torch.manual_seed(seed)
        model: nn.Module = causal_model(config, dtype=dtype)
    return model.eval()


class Tokenizer:
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
                hint="put the base's tokenizer files next to its config.json, or remove --prompt",
            ) from error

    def ids(self, prompt: str) -> list[int]:
        """Token ids of a user's turn in the tokenizer's chat template, or of the plain text without one.

        Raises:
            UsageError: it is no text, or the template does not take it.
        """
        if not self._tokenizer.chat_template:
            return self.plain_ids(prompt)
        _check_text(prompt)
        messages = [{"role": "user", "content": prompt}]
        try:
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:
            raise UsageError(f"the base's chat template rejects these messages: {error}") from error
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text, with the tokenizer's special tokens before it. Raises ``UsageError`` as ``ids``."""
        _check_text(text)
        return list(self._tokenizer(text)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens, with all spaces."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def stops(self, generation_config: Any) -> frozenset[int]:
        """The token ids that end an answer, by the tokenizer and by the model's ``generation_config``."""
        own = self._tokenizer.eos_token_id
        return stops(generation_config) | ({own} if isinstance(own, int) else set())


def _check_text(text: str) -> None:
    """A tokenizer raises a TypeError at half a surrogate pair, which JSON and a command line can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the prompt is not valid Unicode: character {error.start} is half a surrogate pair"
        ) from error


def stops(generation_config: Any) -> frozenset[int]:
    """The token ids that end an answer by the model's ``generation_config`` alone."""
    ends = getattr(generation_config, "eos_token_id", None)
    return frozenset(end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int))


CHECK_TOKENS = 16
"""Of the seeded prompt with which an adapter's effect on the whole model is measured."""


class FullModel:
    """The composed model, its tokenizer (loaded with the first prompt), and the base's answers.

    Raises:
        UsageError: the plan has no directory with the base's checkpoint, and no config for a dummy of it.
        MachineError: there is no room for a dummy.
        NotFound, Corrupt: its weights are not there, or damaged.
        FormatError: transformers cannot load it.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, device: torch.device) -> None:
        self._directory = plan.base_directory
        self.composed = ComposedModel(_model(plan, dtype, device), plan.base.modules)
        if plan.dummy is not None:
            self.composed.origin = "synthetic"
        generator = torch.Generator().manual_seed(plan.seed)
        vocabulary = plan.base.vocab_size or 2
        self._ids = torch.randint(vocabulary, (1, CHECK_TOKENS), generator=generator).to(device)
        self._base_logits: torch.Tensor | None = None
        self._base_answers: dict[tuple[str, int], tuple[list[int], torch.Tensor]] = {}
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ``FormatError`` when there is none."""
        if self._directory is None:
            raise FormatError("has no tokenizer: it is not a directory on this disk", where="--base")
        self._tokenizer = self._tokenizer or Tokenizer(self._directory)
        return self._tokenizer

    @property
    def decode(self) -> Decode | None:
        """The function from token ids to text; None without a tokenizer."""
        try:
            return self.tokenizer.decode
        except FormatError:
            return None

    @property
    def ends(self) -> frozenset[int]:
        """Token ids that end an answer."""
        config = getattr(self.composed.model, "generation_config", None)
        return self.tokenizer.stops(config) if self.decode is not None else stops(config)

    @property
    def vocabulary(self) -> int:
        """The number of token ids in the model's vocabulary."""
        embedding: nn.Embedding = self.composed.model.get_input_embeddings()  # type: ignore[operator]
        return embedding.num_embeddings

    @property
    def max_model_len(self) -> int | None:
        """The most tokens of prompt and output together, from its config; None if that has no limit."""
        config = self.composed.model.config
        most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return most if isinstance(most, int) else None

    def prompt_ids(self, prompt: str | tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        """The prompt as token ids that the model has, with room for the answer.

        Raises:
            UsageError: they are none.
            FormatError: it is text, and there is no tokenizer.
        """
        ids = tuple(self.tokenizer.plain_ids(prompt)) if isinstance(prompt, str) else prompt
        if not ids:
            raise UsageError("the prompt is empty")
        if max(ids) >= self.vocabulary or min(ids) < 0:
            raise UsageError(f"the prompt has token ids beyond the vocabulary of {self.vocabulary}")
        most = self.max_model_len
        if most is not None and len(ids) + max_tokens > most:
            raise UsageError(
                f"the prompt has {len(ids)} tokens and max_tokens is {max_tokens}: the model's context has {most}"
            )
        return ids

    def check(self, slot: Slot) -> Moved:
        """The effect on the next token, over a few seeded ones. Raises ``Refused`` if there is none, or NaN or Inf."""
        if self._base_logits is None:
            self._base_logits = self.composed.logits(self._ids, None)
        return moved(self.composed, self._ids, slot, self._base_logits)

    def answer(self, slot: Slot, prompt: str, max_tokens: int) -> Answers:
        """Both greedy answers to ``prompt``. Raises ``FormatError`` without a tokenizer."""
        tokenizer, ends = self.tokenizer, self.ends
        ids = tokenizer.ids(prompt)
        if not ids:
            raise UsageError("the prompt is empty", hint="--prompt TEXT")
        known = (prompt, max_tokens)
        if known not in self._base_answers:
            self._base_answers[known] = greedy(self.composed, ids, None, max_tokens, ends)
        base, base_logits = self._base_answers[known]
        adapted, logits = greedy(self.composed, ids, slot, max_tokens, ends)
        delta = float((logits - base_logits).abs().max())
        said, adapted_said = (tokenizer.decode(one).strip() for one in (base, adapted))
        return Answers(slot.adapter.name, prompt, said, adapted_said, delta)


def _model(plan: Plan, dtype: torch.dtype, device: torch.device) -> nn.Module:
    if plan.dummy is not None:
        return dummy_model(plan.dummy, dtype=dtype, device=device, seed=plan.seed)
    if plan.base_directory is None:
        raise UsageError(
            f"--forward model needs the base's weights, but {plan.base.name} is not a directory on this disk",
            hint="set --base to a local directory, or download the model to the Hub's cache: hf download ORG/NAME",
        )
    check_checkpoint(plan.base_directory)
    return load_model(plan.base_directory, dtype=dtype, device=str(device))
