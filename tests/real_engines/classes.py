"""Classes of bases that give embeddings or classes, and what vLLM 0.32 does with adapters on them."""

from collections.abc import Mapping

from tests.real_engines.effects import Observed

NO_LORA = "does not support LoRA yet"

CLASSES: Mapping[str, Mapping[str, Observed] | str] = {
    "BertModel": {"backbone": Observed.OK, "bare": Observed.OK},
    "BertForMaskedLM": NO_LORA,
    "BertForSequenceClassification": NO_LORA,
    "BertForTokenClassification": NO_LORA,
    "GPT2ForSequenceClassification": NO_LORA,
    "Gemma2ForSequenceClassification": {"backbone": Observed.OK, "head": Observed.OK},
    "LlamaForSequenceClassification": {"backbone": Observed.OK, "head": Observed.OK},
    "LlamaModel": {"backbone": Observed.OK, "bare": Observed.OK},
    "Qwen2ForTokenClassification": {"backbone": Observed.OK, "head": Observed.REJECTS},
    "Qwen3ForSequenceClassification": {"backbone": Observed.OK, "head": Observed.OK},
    "RobertaForMaskedLM": {"backbone": Observed.OK},
    "RobertaForSequenceClassification": {"backbone": Observed.OK, "head": Observed.REJECTS},
    "RobertaForTokenClassification": NO_LORA,
    "RobertaModel": {"backbone": Observed.OK, "bare": Observed.OK},
}
"""What is seen of each adapter, or what vLLM says when it does not start. ``backbone`` is LoRA on the attention,
``bare`` the same with PEFT's task ``FEATURE_EXTRACTION``, ``head`` with a trained head that is saved whole."""
