"""The base's whole model and its tokenizer: what an adapter does to it, and prompts as token ids."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.results import Moved
from lora_cli.warm.composed import ComposedModel, Slot, first_line, load_model
from lora_cli.warm.plan import Plan

CHECK_TOKENS = 16
"""Of the seeded prompt with which an adapter's effect on the whole model is measured."""


class FullModel:
    """The composed model, and its tokenizer, which is loaded with the first prompt.

    Raises:
        UsageError: the plan has no directory with the base's checkpoint.
        FormatError: transformers cannot load it.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, device: torch.device) -> None:
        if plan.base_directory is None:
            raise UsageError(
                f"--forward model needs the base's weights, but {plan.base.name} is not a directory on this disk",
                hint="set --base to a local directory, or download the model to the Hub's cache: hf download ORG/NAME",
            )
        self._directory = plan.base_directory
        self.composed = ComposedModel(load_model(self._directory, dtype=dtype, device=device), plan.base.modules)
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(plan.base.vocab_size or 2, (1, CHECK_TOKENS), generator=generator).to(device)
        self._base_logits: torch.Tensor | None = None
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer, by transformers; no code of its own is run. Raises ``FormatError`` if there is none."""
        from transformers import AutoTokenizer

        if self._tokenizer is None:
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(
                    self._directory, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
                raise FormatError(
                    f"has no tokenizer that transformers can load: {first_line(error)}",
                    where=str(self._directory),
                    hint="put the base's tokenizer files next to its config.json, or send token ids",
                ) from error
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether prompts may be text."""
        try:
            return self.tokenizer is not None
        except FormatError:
            return False

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens, with all spaces; empty without a tokenizer."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)) if self.has_tokenizer else ""

    @property
    def ends(self) -> frozenset[int]:
        """Token ids that end an answer, by the tokenizer and by the model's ``generation_config``."""
        ends = getattr(getattr(self.composed.model, "generation_config", None), "eos_token_id", None)
        own = self.tokenizer.eos_token_id if self.has_tokenizer else None
        return frozenset(end for end in (*(ends if isinstance(ends, list) else [ends]), own) if isinstance(end, int))

    def prompt_ids(self, prompt: str | tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        """The prompt as token ids that the model has, with room for the answer.

        Raises:
            UsageError: they are none.
            FormatError: it is text, and there is no tokenizer.
        """
        ids = tuple(self.tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else prompt
        if not ids:
            raise UsageError("the prompt is empty")
        embedding: nn.Embedding = self.composed.model.get_input_embeddings()  # type: ignore[operator]
        if max(ids) >= embedding.num_embeddings or min(ids) < 0:
            raise UsageError(f"the prompt has token ids beyond the vocabulary of {embedding.num_embeddings}")
        config = self.composed.model.config
        most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        if isinstance(most, int) and len(ids) + max_tokens > most:
            raise UsageError(
                f"the prompt has {len(ids)} tokens and max_tokens is {max_tokens}: the model's context has {most}"
            )
        return ids

    def check(self, slot: Slot) -> Moved:
        """The effect on the next token, over a few seeded ones.

        Raises:
            Refused: a logit is not finite, or none changed.
        """
        if self._base_logits is None:
            self._base_logits = self.composed.logits(self._ids, None)
        logits, base_logits = self.composed.logits(self._ids, slot), self._base_logits
        if not bool(torch.isfinite(logits).all()):
            raise Refused("the whole model's logits are not finite with this adapter")
        delta = float((logits - base_logits).abs().max())
        if not delta:
            raise Refused("the whole model's logits are bit-identical to the base's: the adapter changes nothing")
        base, adapted = base_logits.double().log_softmax(-1), logits.double().log_softmax(-1)
        kl = (base.exp() * (base - adapted)).sum(-1).mean()
        changed = logits.argmax(-1) != base_logits.argmax(-1)
        return Moved(delta, max(0.0, float(kl)), int(changed.sum()), changed.numel())
