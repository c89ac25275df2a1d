"""Families without a line of ours are known as transformers builds them, with the modules that PEFT adapts."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.base.families import FAMILIES, base_from_config
from lora_cli.cli.main import main
from lora_cli.errors import FormatError
from tests.corpus.peft_judge import quiet

WIDE = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2}
WHISPER: dict[str, Any] = {
    **{"vocab_size": 100, "d_model": 32, "max_position_embeddings": 64, "pad_token_id": 1, "decoder_start_token_id": 2},
    **dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 2),
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}
WHISPER |= {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
WHISPER |= {"bos_token_id": 0, "eos_token_id": 2}
T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "pad_token_id": 0}
DISTILBERT = {"vocab_size": 100, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "pad_token_id": 0}
SEGFORMER = {"hidden_sizes": [16, 32, 32, 32], "num_encoder_blocks": 4, "decoder_hidden_size": 32}

MODELS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "whisper": ("WhisperForConditionalGeneration", WHISPER, ["q_proj", "v_proj"]),
    "t5": ("T5ForConditionalGeneration", T5, ["q", "v"]),
    "distilbert": ("DistilBertForSequenceClassification", DISTILBERT, ["q_lin", "v_lin"]),
    "segformer": ("SegformerForSemanticSegmentation", SEGFORMER, ["q_proj", "v_proj"]),
}
"""Family: the class of its tiny model, its config, and what LoRA is put on."""

TEXT = {**WIDE, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
OLMO3 = {**TEXT, "model_type": "olmo3", "eos_token_id": 1}
EYE = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32}


def write_both(family: str, folder: Path) -> tuple[Path, Path]:
    """The base's config and an adapter that PEFT saved of it."""
    import transformers
    from peft import LoraConfig, get_peft_model

    name, fields, targets = MODELS[family]
    with quiet():
        config = transformers.AutoConfig.for_model(family, **fields)
        model = getattr(transformers, name)(config)
        config.architectures = [name]
        config.save_pretrained(folder / "base")
        options = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
        get_peft_model(model, options).save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


@pytest.mark.parametrize("family", MODELS)
def test_every_module_applies_and_none_of_another_layer(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    base, adapter = write_both(family, tmp_path)
    command = ["validate", str(adapter), "--base", str(base), "--no-values", "--format", "json"]
    assert main(command) == 0
    (judged,) = json.loads(capsys.readouterr().out)["adapters"]
    # The heads of these are not trained, and no base is named.
    assert {finding["code"] for finding in judged["findings"]} <= {"LC316", "LC606"}
    assert judged["applied"]["matched"] == judged["applied"]["total"] > 0

    file = adapter / "adapter_model.safetensors"
    save_file({name.replace(".0.", ".9."): tensor for name, tensor in load_file(file).items()}, file)
    assert main(command) == 1
    (judged,) = json.loads(capsys.readouterr().out)["adapters"]
    assert {"LC311", "LC312"} & {finding["code"] for finding in judged["findings"]}


def test_a_wrapper_is_known_with_its_towers() -> None:
    assert not {"olmo3", "qwen3_vl"} & FAMILIES.keys()
    text = base_from_config(OLMO3, "base")
    assert (text.num_layers, text.hidden_size, text.vocab_size, text.tied_embeddings) == (2, 32, 100, False)
    base = base_from_config({"model_type": "qwen3_vl", "text_config": TEXT, "vision_config": EYE}, "base")
    assert base.modules["model.language_model.layers.1.self_attn.k_proj"].d_in == 32
    assert base.modules["model.visual.blocks.0.attn.qkv"].d_in == 32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": "wide"}, "transformers cannot build a model of type 'olmo3': .*hidden_size"),
        ({"intermediate_size": -5}, "dimension -5"),
        ({"model_type": "reformer"}, "is_decoder=True"),  # its class asserts it
        # Code that a repository ships is not looked at.
        ({"model_type": "theirs", "auto_map": {"AutoConfig": "os.system", "AutoModel": "os.system"}}, "theirs"),
    ],
)
def test_a_config_that_makes_no_model_is_one_error(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        base_from_config(OLMO3 | change, "base")
