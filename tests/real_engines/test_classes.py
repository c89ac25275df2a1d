"""The real vLLM with bases that give embeddings or classes, or that it has no class for (``make test-engines``)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.checks.serving import NOT_FOR_TEXT
from lora_cli.engines.vllm import NO_LORA
from lora_cli.finding import Outcome
from tests.corpus.peft_judge import quiet
from tests.real_engines.agreement import predictions, served
from tests.real_engines.bases import HIDDEN, SIZES, VOCABULARY, write_words
from tests.real_engines.cases import Case
from tests.real_engines.families import GPT2, NEOX
from tests.real_engines.vllm_oracle import NO_SUPPORT, Worker

pytestmark = pytest.mark.engines

CLASSES = (
    *("BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForTokenClassification"),
    *("GPT2ForSequenceClassification", "Gemma2ForSequenceClassification", "LlamaForSequenceClassification"),
    *("LlamaModel", "Qwen2ForTokenClassification", "Qwen3ForSequenceClassification", "RobertaForMaskedLM"),
    *("RobertaForSequenceClassification", "RobertaForTokenClassification", "RobertaModel"),
)
"""Each with LoRA on the attention (``backbone``), and with the same as PEFT's task ``FEATURE_EXTRACTION`` (``bare``) or
with a trained ``head`` that is saved whole."""

TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
ENCODER = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "T5ForConditionalGeneration": {
        **{"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 32, "d_ff": 96, "num_layers": 2, "num_heads": 2},
        "decoder_start_token_id": 0,
    },
    "DistilBertForSequenceClassification": {**TEXT, "dim": HIDDEN, "hidden_dim": 96, "n_layers": 2, "n_heads": 2},
    "BertForQuestionAnswering": {**TEXT, **ENCODER},
    "ViTForImageClassification": {**ENCODER, "image_size": 28, "patch_size": 14},
}

PROMPTS = [list(range(5, 13)), list(range(20, 36))]
TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}


def model_of(architecture: str) -> Any:
    """A tiny model of the class, the same each time."""
    import torch
    import transformers

    found = getattr(transformers, architecture)
    fields = GPT2 if "GPT2" in architecture else NEOX if "ert" in architecture else SIZES
    labels = {"num_labels": 3} if "Classification" in architecture else {}
    torch.manual_seed(5)
    return found(found.config_class(**{**fields, "pad_token_id": 0, **labels})).eval()


def write(architecture: str, folder: Path) -> tuple[Path, dict[str, Path], dict[str, Any]]:
    """The base, its adapters by name, and what PEFT answers with each."""
    import torch
    from peft import LoraConfig, get_peft_model

    tasks: dict[str, str | None] = {"backbone": None}
    if architecture.endswith("Model"):
        tasks["bare"] = "FEATURE_EXTRACTION"
    for end, task in TASKS.items():
        if architecture.endswith(end):
            tasks["head"] = task
    adapters, meant = {}, {}
    with quiet():
        model_of(architecture).save_pretrained(folder / "base")
        write_words(folder / "base")
        for name, trained in tasks.items():
            torch.manual_seed(11)
            targets = r".*\.(query|value|q_proj|v_proj|c_attn)"
            adapted = get_peft_model(
                model_of(architecture), LoraConfig(r=8, lora_alpha=12, target_modules=targets, task_type=trained)
            )
            with torch.no_grad():
                for key, parameter in adapted.named_parameters():
                    if "lora_" in key or "modules_to_save" in key:
                        parameter.add_(torch.randn_like(parameter) * 0.3)
            adapted.save_pretrained(folder / name)
            adapters[name], meant[name] = folder / name, answers(adapted.eval())
    return folder / "base", adapters, meant


def answers(adapted: Any) -> Any:
    """Classes of the prompt, or of its last token, and the embedding that vLLM makes by default of such a class."""
    import torch

    found = []
    with torch.no_grad():
        for prompt in PROMPTS:
            told = adapted(input_ids=torch.tensor([prompt]), output_hidden_states=True)
            name = type(adapted.get_base_model()).__name__
            if "Classification" in name:
                found.append(told.logits.softmax(-1).reshape(-1, 3)[-1])
            else:
                hidden = told.hidden_states[-1][0, 0 if "ert" in name else -1]
                found.append(hidden / hidden.norm())
    return np.stack([one.double().numpy() for one in found])


@pytest.mark.parametrize("architecture", CLASSES)
def test_validate_says_what_vllm_does_with_each_class(architecture: str, worker: Worker, tmp_path: Path) -> None:
    base, adapters, meant = write(architecture, tmp_path)
    asks = "token_classify" if "Token" in architecture else "classify" if "Classif" in architecture else "embed"

    flags = {"runner": "pooling"}
    first, *others = worker.run(base, adapters, tmp_path / "seen.json", flags, prompts=PROMPTS, asks=asks)

    cases = [Case(None, name, path, None) for name, path in adapters.items()]  # type: ignore[arg-type]
    said = {name: one for name, (one, _) in predictions("vllm@0.32", base, cases, tmp_path / "said.json").items()}
    if "fails" in first:
        assert NO_SUPPORT in first["fails"]
        assert {*said.values()} == {Outcome.REJECTS}
        return
    seen = {one["name"]: Outcome.REJECTS for one in others if "rejects" in one}
    for one in others:
        if "answers" in one:
            seen[one["name"]] = served(one["name"], np.array(one["answers"]), meant[one["name"]]).observed
    assert seen == said


@pytest.mark.parametrize("architecture", MODELS)
def test_vllm_does_not_start_with_it(architecture: str, worker: Worker, tmp_path: Path) -> None:
    import transformers

    found = getattr(transformers, architecture)
    with quiet():
        config = found.config_class(**MODELS[architecture])
        found(config).save_pretrained(tmp_path / "base")
        write_words(tmp_path / "base")

    (told,) = worker.run(tmp_path / "base", {}, tmp_path / "seen.json", {})

    assert told["fails"]
    assert re.fullmatch(NOT_FOR_TEXT, architecture.rpartition("For")[2]) or config.model_type in NO_LORA
