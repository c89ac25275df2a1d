"""The real vLLM with models that are not for text, or that it has no class for: none starts (``make test-engines``)."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.checks.serving import NOT_FOR_TEXT
from lora_cli.engines.vllm import NO_LORA
from tests.corpus.peft_judge import quiet
from tests.real_engines.bases import HIDDEN, VOCABULARY, write_words
from tests.real_engines.family_oracle import Worker, working

pytestmark = pytest.mark.engines

TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
ENCODER = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "T5ForConditionalGeneration": {
        **{"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 32, "d_ff": 96, "num_layers": 2, "num_heads": 2},
        "decoder_start_token_id": 0,
    },
    "DistilBertForSequenceClassification": {**TEXT, "dim": HIDDEN, "hidden_dim": 96, "n_layers": 2, "n_heads": 2},
    "BartForConditionalGeneration": {
        **{**TEXT, "d_model": HIDDEN, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 96},
        **{"decoder_ffn_dim": 96, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    },
    "BertForQuestionAnswering": {**TEXT, **ENCODER},
    "ViTForImageClassification": {**ENCODER, "image_size": 28, "patch_size": 14},
    "SegformerForSemanticSegmentation": {},
    "Wav2Vec2ForCTC": {"vocab_size": VOCABULARY, **ENCODER},
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with working(tmp_path_factory.mktemp("vllm")) as started:
        yield started


@pytest.mark.parametrize("architecture", MODELS)
def test_vllm_does_not_start_with_it(architecture: str, worker: Worker, tmp_path: Path) -> None:
    import transformers

    found = getattr(transformers, architecture)
    with quiet():
        config = found.config_class(**MODELS[architecture])
        found(config).save_pretrained(tmp_path / "base")
        write_words(tmp_path / "base")

    (told,) = worker.run(tmp_path / "base", {}, {}, tmp_path / "seen.json")

    assert told["fails"]
    assert re.fullmatch(NOT_FOR_TEXT, architecture.rpartition("For")[2]) or config.model_type in NO_LORA
