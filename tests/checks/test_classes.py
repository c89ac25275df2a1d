"""Bases whose config names a class for embeddings or classification: whether vLLM takes LoRA there, and its head."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.base.families import base_from_config
from lora_cli.engines import choose_engine
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.base.configs import CONFIGS
from tests.making import HIDDEN, VOCAB, base_config, llama_modules, write_adapter

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
    checked = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))
    assert checked.error is None
    assert checked.applied is not None
    assert checked.applied.matched == checked.applied.total
    assert {one.code for one in checked.findings if one.code.startswith("LC3")} <= {"LC316"}
    return tuple(one.outcome.label for one in checked.engines)


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
    ("family", "architecture", "known"),
    [
        ("llama", "", True),
        ("nobodys", "BertModel", True),
        ("nobodys", "NobodysModel", False),
        ("nobodys", "", False),
    ],
)
def test_an_engine_is_known_to_take_lora_by_family_or_class(family: str, architecture: str, known: bool) -> None:
    base = BaseModel("base", family, {}, 1, 1, architecture=architecture)
    assert choose_engine("vllm").engine.is_known(base) is known


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


def test_a_class_that_rewrites_beginnings_of_names_takes_those_too(tmp_path: Path) -> None:
    base = base_from_config({"model_type": "opt", **CONFIGS["opt"][0]}, "base")
    path = "decoder.layers.0.self_attn.q_proj"
    one = base.modules[f"model.{path}"]
    adapter = write_adapter(tmp_path / "adapter", modules={path: (one.d_in, one.d_out)})
    terms = Terms(base, engines=tuple(choose_engine(f"vllm@{one}") for one in VERSIONS))

    checked = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))

    assert checked.error is None
    assert [str(one.applied) for one in checked.engines] == ["1/1"] * 3


@pytest.mark.parametrize(
    ("family", "path", "versions"),
    [
        ("starcoder2", "layers.0.self_attn.q_proj", (True, True, True)),
        ("starcoder2", "model.layers.0.self_attn.q_proj", (True, True, True)),
        ("starcoder2", "model.model.layers.0.self_attn.q_proj", (True, True, True)),
        ("starcoder2", "model.model.model.layers.0.self_attn.q_proj", (False, False, False)),
        ("starcoder2", "transformer.layers.0.self_attn.q_proj", (False, False, False)),
        ("phi", "layers.0.self_attn.q_proj", (True, True, True)),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value", (True, True, True)),
        ("gpt_neox", "model.layers.0.attention.query_key_value", (True, True, True)),
        ("gpt_neox", "layers.0.attention.query_key_value", (True, True, True)),
        ("qwen2", "layers.0.self_attn.q_proj", (False, False, False)),
    ],
)
def test_names_of_a_class_that_is_wrapped_may_begin_in_another_way(
    family: str, path: str, versions: tuple[bool, ...], tmp_path: Path
) -> None:
    base = base_from_config({"model_type": family, **CONFIGS[family][0]}, "base")
    (real,) = (one for one in base.modules if one.endswith(path[path.index("layers.") :]))
    shape = (base.modules[real].d_in, base.modules[real].d_out)
    adapter = write_adapter(tmp_path / "adapter", modules={path: shape})
    terms = Terms(base, engines=tuple(choose_engine(f"vllm@{one}") for one in VERSIONS))

    checked = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))

    assert checked.error is None
    assert tuple(str(one.applied) == "1/1" for one in checked.engines) == versions


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("base_model.model.model.language_model.", ["ok", "ok"]),
        ("base_model.model.language_model.model.", ["ok", "ok"]),
        ("language_model.", ["serves wrong", "ok"]),
    ],
)
def test_the_ranks_of_modules_under_older_names_are_known(prefix: str, expected: list[str], tmp_path: Path) -> None:
    base = base_from_config({"model_type": "gemma3", **CONFIGS["gemma3"][0]}, "base")
    path = "layers.0.self_attn.q_proj"
    one = base.modules[f"model.language_model.{path}"]
    adapter = write_adapter(
        tmp_path / "adapter",
        modules={path: (one.d_in, one.d_out)},
        prefix=prefix,
        config={"target_modules": rf".*language_model.{path}"},
    )
    terms = Terms(base, engines=(choose_engine("vllm@0.32"), choose_engine("peft")))

    checked = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))

    assert checked.error is None
    assert checked.error is None
    assert [one.outcome.label for one in checked.engines] == expected


@pytest.mark.parametrize("named", [[], [7], "BertModel", None, ["LlamaModel"]])
def test_a_class_without_a_head_excuses_no_names_of_another_model(named: object, tmp_path: Path) -> None:
    base = base_from_config(base_config("llama", architectures=named), "base")
    adapter = write_adapter(tmp_path / "adapter", modules=QUERIES)

    checked = judge_one(Request("", str(adapter)), Terms(base), Settings(cache_dir=tmp_path / "cache"))

    assert checked.error is None
    assert "LC311" in {one.code for one in checked.findings}


@pytest.mark.parametrize(
    ("named", "expected"), [("PeftModelForCausalLM", True), ("PeftModel", True), ("UNet2D", False)]
)
def test_without_a_base_a_wrapper_of_peft_tells_nothing_of_the_model(
    named: str, expected: bool, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", config={"auto_mapping": {"base_model_class": named}})

    terms = Terms(engines=(choose_engine("vllm"),))
    checked = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))

    assert checked.error is None
    assert ("LC405" not in {one.code for one in checked.findings}) == expected


def said_of(tmp_path: Path, family: str, architecture: str, module: str) -> tuple[str, ...]:
    """What each version does with an adapter on one module of a base like Llama's, of another family."""
    llama = base_from_config(base_config("llama"), "base")
    base = replace(llama, model_type=family, architecture=architecture)
    if module == "gate_up_proj":
        path = "model.layers.0.mlp.gate_up_proj"
        fused = BaseModule(HIDDEN, 2 * HIDDEN)
        base = replace(base, modules={**base.modules, path: fused})
        adapter = write_adapter(tmp_path / "adapter", modules={path: (HIDDEN, 2 * HIDDEN)})
    elif module == "embed_tokens":
        factors = {"lora_embedding_A": (4, VOCAB), "lora_embedding_B": (HIDDEN, 4)}
        adapter = write_adapter(
            tmp_path / "adapter",
            modules={},
            config={"target_modules": ["embed_tokens"]},
            tensors={
                f"base_model.model.model.embed_tokens.{name}": np.ones(shape, np.float32)
                for name, shape in factors.items()
            },
        )
    else:
        shapes = {"lm_head": {"lm_head": (HIDDEN, VOCAB)}, "q_proj": llama_modules(["q_proj"])}
        adapter = write_adapter(tmp_path / "adapter", modules=shapes[module])
    terms = Terms(base, engines=tuple(choose_engine(f"vllm@{one}") for one in VERSIONS))
    checked = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))
    assert checked.error is None
    return tuple(one.outcome.label for one in checked.engines)


@pytest.mark.parametrize(
    ("family", "architecture", "module", "expected"),
    [
        ("olmo3", "Olmo3ForCausalLM", "embed_tokens", ("ok", "ok", "ok")),
        ("olmo3", "Olmo3ForCausalLM", "lm_head", ("rejects", "rejects", "rejects")),
        ("phi", "PhiForCausalLM", "embed_tokens", ("ok", "ok", "ok")),
        ("glm", "GlmForCausalLM", "lm_head", ("rejects", "rejects", "rejects")),
        ("ernie4_5", "Ernie4_5ForCausalLM", "lm_head", ("ok", "ok", "ok")),
        ("ernie4_5", "Ernie4_5ForCausalLM", "embed_tokens", ("ok", "ok", "ok")),
        ("gemma2", "Gemma2ForCausalLM", "embed_tokens", ("rejects", "rejects", "rejects")),
        ("helium", "HeliumForCausalLM", "embed_tokens", ("unknown", "unknown", "unknown")),
        ("helium", "HeliumForCausalLM", "lm_head", ("rejects", "rejects", "rejects")),
        ("gpt_neox", "GPTNeoXForCausalLM", "q_proj", ("rejects", "ok", "ok")),
        ("dbrx", "DbrxForCausalLM", "q_proj", ("unknown", "unknown", "unknown")),
        ("iquestcoder", "LlamaForCausalLM", "q_proj", ("ok", "ok", "ok")),
        ("kolibri1", "Kolibri1ForCausalLM", "q_proj", ("rejects", "rejects", "ok")),
        ("glm4", "Glm4ForCausalLM", "gate_up_proj", ("rejects", "rejects", "rejects")),
        ("phi3", "Phi3ForCausalLM", "gate_up_proj", ("ok", "ok", "ok")),
    ],
)
def test_what_a_class_puts_lora_on(
    family: str, architecture: str, module: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    assert said_of(tmp_path, family, architecture, module) == expected
