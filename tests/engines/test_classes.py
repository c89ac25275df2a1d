"""Bases whose config names a class for embeddings or classification: whether vLLM takes LoRA there, and its head."""

from pathlib import Path

import numpy as np
import pytest

from lora_cli.core.adapter_request import Item
from lora_cli.core.architectures import base_from_config
from lora_cli.engines import choose_engine
from lora_cli.settings import Settings
from lora_cli.validation import Terms, validate
from tests.making import HIDDEN, base_config, llama_modules, write_adapter

VERSIONS = ("0.31", "0.32", "0.33")
QUERIES = {f"encoder.layer.{number}.attention.self.query": (HIDDEN, HIDDEN) for number in (0, 1)}


def said(tmp_path: Path, architecture: str, model_type: str, *, head: bool = False) -> tuple[str, ...]:
    """What each version of vLLM does with an adapter of that class."""
    family = "bert" if model_type == "roberta" else model_type
    config = {**base_config(family, architectures=[architecture]), "model_type": model_type}
    within = "" if architecture.endswith("Model") else f"{model_type}."
    modules = (
        {within + path: shape for path, shape in QUERIES.items()} if family == "bert" else llama_modules(["q_proj"])
    )
    name = "classifier" if family == "bert" else "score"
    adapter = write_adapter(
        tmp_path / "adapter",
        modules=modules,
        config={
            "task_type": "SEQ_CLS" if head else None,
            "auto_mapping": {"base_model_class": architecture},
        },
        tensors={f"base_model.model.{name}.weight": np.ones((2, HIDDEN), np.float32)} if head else {},
    )
    terms = Terms(base_from_config(config, "base"), engines=tuple(choose_engine(f"vllm@{one}") for one in VERSIONS))
    checked = validate(Item("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))
    assert checked.verdict is not None
    assert checked.verdict.applied is not None
    assert checked.verdict.applied.matched == checked.verdict.applied.total
    assert {one.code for one in checked.verdict.findings if one.code.startswith("LC3")} <= {"LC320"}
    return tuple(one.label for one in checked.verdict.engines)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("BertModel", ("rejects", "ok", "ok")),
        ("BertForMaskedLM", ("rejects", "rejects", "rejects")),
        ("BertForSequenceClassification", ("rejects", "rejects", "ok")),
        ("BertForTokenClassification", ("rejects", "rejects", "ok")),
        ("RobertaModel", ("rejects", "ok", "ok")),
        ("RobertaForMaskedLM", ("rejects", "ok", "ok")),
        ("RobertaForSequenceClassification", ("ok", "ok", "ok")),
        ("RobertaForTokenClassification", ("rejects", "rejects", "rejects")),
    ],
)
def test_a_class_takes_lora_since_the_version_in_which_it_was_read(
    architecture: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    assert said(tmp_path, architecture, "roberta" if architecture.startswith("Roberta") else "bert") == expected


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("LlamaForCausalLM", ("rejects", "rejects", "rejects")),
        ("LlamaForSequenceClassification", ("ok", "ok", "ok")),
        ("LlamaForTokenClassification", ("rejects", "rejects", "ok")),
        ("BertForSequenceClassification", ("rejects", "rejects", "ok")),
    ],
)
def test_a_trained_head_is_taken_by_a_class_with_that_head(
    architecture: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    assert said(tmp_path, architecture, "llama" if "Llama" in architecture else "bert", head=True) == expected


@pytest.mark.parametrize("named", [[], [7], "BertModel", None, ["LlamaModel"]])
def test_a_class_without_a_head_excuses_no_names_of_another_model(named: object, tmp_path: Path) -> None:
    base = base_from_config(base_config("llama", architectures=named), "base")
    adapter = write_adapter(tmp_path / "adapter", modules=QUERIES)

    checked = validate(Item("", str(adapter)), Terms(base), Settings(cache_dir=tmp_path / "cache"))

    assert checked.verdict is not None
    assert "LC311" in {one.code for one in checked.verdict.findings}


@pytest.mark.parametrize(
    ("named", "expected"), [("PeftModelForCausalLM", "ok"), ("PeftModel", "ok"), ("UNet2D", "unknown")]
)
def test_without_a_base_a_wrapper_of_peft_tells_nothing_of_the_model(named: str, expected: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", config={"auto_mapping": {"base_model_class": named}})

    terms = Terms(engines=(choose_engine("vllm"),))
    checked = validate(Item("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))

    assert checked.verdict is not None
    assert [one.label for one in checked.verdict.engines] == [expected]


@pytest.mark.parametrize(("version", "proof"), [("0.31", "read"), ("0.32", "run"), ("0.33", "read")])
def test_what_was_run_in_one_version_was_read_in_the_others(version: str, proof: str) -> None:
    rows = choose_engine(f"vllm@{version}").rows
    proofs = {row.feature: row.proof for row in rows}

    assert {proofs[one] for one in ("rows-reordered", "base-without-lora", "saved-head")} == {proof}
    assert proofs["dora"] == "run"
