"""Adapters that PEFT writes on models of other tasks than text generation apply to the base, module by module."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.corpus.peft_judge import quiet

ENCODER_DECODER: dict[str, Any] = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
WHISPER = {**ENCODER_DECODER, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "pad_token_id": 0}
DISTILBERT = {"vocab_size": 100, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "pad_token_id": 0}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
MAMBA2 = {"vocab_size": 100, "hidden_size": 32, "num_heads": 8, "head_dim": 8, "num_hidden_layers": 2, "n_groups": 1}
"""transformers writes the infinity among its fields as an object."""
SEGFORMER = {"hidden_sizes": [16, 32, 32, 32], "num_encoder_blocks": 4, "decoder_hidden_size": 32}

MODELS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "whisper": ("WhisperForConditionalGeneration", WHISPER, ["q_proj", "v_proj"]),
    "bart": ("BartForConditionalGeneration", ENCODER_DECODER, ["q_proj", "v_proj", "fc1"]),
    "mbart": ("MBartForConditionalGeneration", ENCODER_DECODER, ["q_proj", "v_proj"]),
    "marian": ("MarianMTModel", ENCODER_DECODER, ["q_proj", "v_proj"]),
    "pegasus": ("PegasusForConditionalGeneration", ENCODER_DECODER, ["q_proj", "v_proj"]),
    "m2m_100": ("M2M100ForConditionalGeneration", ENCODER_DECODER, ["q_proj", "v_proj"]),
    "t5": ("T5ForConditionalGeneration", T5, ["q", "v"]),
    "distilbert": ("DistilBertForSequenceClassification", DISTILBERT, ["q_lin", "v_lin"]),
    "vit": ("ViTForImageClassification", VIT, ["q_proj", "v_proj"]),
    "mamba2": ("Mamba2ForCausalLM", MAMBA2, ["in_proj"]),
    "segformer": ("SegformerForSemanticSegmentation", SEGFORMER, ["q_proj", "v_proj"]),
}
"""Family: the class of its tiny model, its config, and what LoRA is put on."""


def write_both(family: str, folder: Path) -> tuple[Path, Path]:
    """The base's config and an adapter that PEFT saved of it."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    name, fields, targets = MODELS[family]
    with quiet():
        torch.manual_seed(3)
        config = transformers.AutoConfig.for_model(family, **fields)
        model = getattr(transformers, name)(config)
        config.architectures = [name]
        config.save_pretrained(folder / "base")
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "lora_B" in key:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        adapted.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


@pytest.mark.parametrize("family", MODELS)
def test_every_module_applies(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter = write_both(family, tmp_path)

    code = main(["validate", str(adapter), "--base", str(base), "--format", "json"])

    (judged,) = json.loads(capsys.readouterr().out)["adapters"]
    # The heads of these are not trained, and no base is named.
    assert {finding["code"] for finding in judged["findings"]} <= {"LC316", "LC606"}
    assert code == 0


@pytest.mark.parametrize("family", ["whisper", "t5", "vit"])
def test_a_module_that_the_model_has_not_is_found(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    base, adapter = write_both(family, tmp_path)
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace(".0.", ".9."): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})

    assert main(["validate", str(adapter), "--base", str(base), "--format", "json"]) == 1
    (judged,) = json.loads(capsys.readouterr().out)["adapters"]
    assert "LC311" in {finding["code"] for finding in judged["findings"]}


def test_without_architectures_the_family_says_which_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter = write_both("t5", tmp_path)
    config = json.loads((base / "config.json").read_text())
    for named in ([], ["T5Model"], ["os.system"], "T5ForConditionalGeneration", [7]):
        (base / "config.json").write_text(json.dumps({**config, "architectures": named}))
        assert main(["validate", str(adapter), "--base", str(base)]) == 0, named
    capsys.readouterr()


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("reformer", "is_decoder=True"),  # its class asserts it
        ("detr", "requires the"),  # of a library that no extra has
        ("aya_vision", "must be divisible"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_line(
    model_type: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, adapter = write_both("t5", tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": model_type}))

    for command in ("validate", "inspect"):
        assert main([command, str(adapter), "--base", str(tmp_path / "other")]) == 1
        written = capsys.readouterr().err
        assert f"transformers cannot build a model of type '{model_type}'" in written
        assert said in written
        assert "Traceback" not in written
