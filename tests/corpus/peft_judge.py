"""Adapters that the real PEFT writes, and its answers with them."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.corpus.bases import Base


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """PEFT, transformers and torch warn of each other; none of it is about what is compared."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def write_adapter(base: Base, options: Mapping[str, Any], directory: Path) -> Any:
    """Put a LoRA with ``options`` on the base, as if it had been trained, save it; gives the logits it answers with."""
    import torch
    from peft import LoraConfig, get_peft_model

    with quiet():
        torch.manual_seed(11)
        adapted = get_peft_model(base.model(), LoraConfig(**options)).eval()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if any(mark in name for mark in ("lora_", "trainable_tokens_delta")) and parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        adapted.save_pretrained(directory)
        return logits(adapted)


def logits(model: Any) -> Any:
    """Answers to every token of the vocabulary, twice in different places."""
    import torch

    tokens = torch.arange(64).reshape(4, 16) % model.config.get_text_config().vocab_size
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.double()


def answers(base: Base, directory: Path) -> Any:
    """The logits with the adapter loaded as every user of PEFT does; PEFT's own errors come through."""
    from peft import PeftModel

    with quiet():
        return logits(PeftModel.from_pretrained(base.model(), str(directory)).eval())
