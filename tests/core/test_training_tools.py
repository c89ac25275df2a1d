"""Who wrote an adapter: what the tools' own cards, configs and files tell, and nothing that is only likely."""

from collections.abc import Callable
from typing import Any

import pytest

from lora_cli.core.companions import Card, Writer, writers_of
from lora_cli.core.lora_config import parse_config
from lora_cli.documents.model_card import parse_card
from tests.core.peft_models import Written

TRL = """---
base_model: unsloth/Qwen2.5-7B-Instruct-bnb-4bit
library_name: peft
tags:
- base_model:adapter:unsloth/Qwen2.5-7B-Instruct-bnb-4bit
- lora
- sft
- transformers
- trl
licence: license
---

# Model Card for sql

It has been trained using [TRL](https://github.com/huggingface/trl).

### Framework versions

- PEFT 0.21.0
- TRL: 1.14.0
- Transformers: 5.17.0
"""
AXOLOTL = """---
library_name: peft
tags:
- generated_from_trainer
---

[<img src="https://raw.githubusercontent.com/axolotl-ai-cloud/axolotl/main/image/axolotl-badge-web.png" \
alt="Built with Axolotl" width="200" height="32"/>](https://github.com/axolotl-ai-cloud/axolotl)
<details><summary>See axolotl config</summary>

axolotl version: `0.16.1`
```yaml
"""
UNSLOTH = """---
tags:
- text-generation-inference
- unsloth
- llama
- trl
license: apache-2.0
---
This llama model was trained 2x faster with [Unsloth](https://github.com/unslothai/unsloth) and \
Huggingface's TRL library.
"""
FACTORY = "---\nlibrary_name: peft\nlicense: other\ntags:\n- llama-factory\n- lora\n- generated_from_trainer\n---\n"
SWIFT = "---\nlibrary_name: peft\n---\n### Framework versions\n\n- SWIFT 3.8.0\n\n- PEFT 0.15.2\n"
PLAIN = (
    "---\nlibrary_name: peft\ntags:\n- generated_from_trainer\n---\n"
    "### Framework versions\n\n- PEFT 0.15.2\n- Transformers 4.51.3\n"
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TRL, {"PEFT": "0.21.0", "TRL": "1.14.0"}),
        (AXOLOTL, {"axolotl": "0.16.1"}),
        (UNSLOTH, {"Unsloth": "", "TRL": ""}),
        (FACTORY, {"LLaMA-Factory": ""}),
        (SWIFT, {"PEFT": "0.15.2", "ms-swift": "3.8.0"}),
        (PLAIN, {"PEFT": "0.15.2", "transformers Trainer": "4.51.3"}),
        ("---\nlibrary_name: peft\nbase_model: unsloth/gemma-2b\n---\nI like [Unsloth](https://unsloth.ai).\n", {}),
        ("no card at all", {}),
    ],
    ids=["trl", "axolotl", "unsloth", "llama-factory", "ms-swift", "trainer", "only a base", "nothing"],
)
def test_a_card_tells_its_tools(text: str, told: dict[str, str]) -> None:
    assert {one.tool: one.version for one in writers_of(None, (), parse_card(text.encode(), whole=True))} == told


@pytest.mark.parametrize(
    ("files", "tool"),
    [
        (("additional_config.json",), "ms-swift"),
        (("torchtune_config.yaml",), "torchtune"),
        (("adapter_model.pt", "adapter_model.safetensors"), "torchtune"),
        (("llamaboard_config.yaml",), "LLaMA-Factory"),
        (("lora_train_meta.json",), "verl"),
        (("adapter_model.safetensors", "training_args.bin", "trainer_state.json"), None),
    ],
)
def test_files_beside_the_weights_tell(files: tuple[str, ...], tool: str | None) -> None:
    assert [one.tool for one in writers_of(None, files, None)] == ([tool] if tool else [])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"peft_version": "0.21.2"}, [Writer("PEFT", "0.21.2", "adapter_config.json: peft_version")]),
        ({"auto_mapping": {"unsloth_fixed": True}}, [Writer("Unsloth", "", "adapter_config.json: auto_mapping")]),
        ({"auto_mapping": {"unsloth_fixed": "yes"}}, []),
        ({"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}, []),
    ],
)
def test_a_config_tells(fields: dict[str, Any], told: list[Writer]) -> None:
    assert list(writers_of(parse_config(fields), (), None)) == told


def test_the_config_says_peft_s_version_before_the_card_does() -> None:
    card = parse_card(TRL.encode(), whole=True)
    peft, *_ = writers_of(parse_config({"peft_version": "0.21.2"}), (), card)

    assert peft == Writer("PEFT", "0.21.2", "adapter_config.json: peft_version")


def test_what_peft_itself_writes_tells_peft_alone(peft_wrote: "Callable[[str], Written]") -> None:
    folder = peft_wrote("llama list").directory
    card: Card = parse_card((folder / "README.md").read_bytes(), whole=True)
    files = [path.name for path in folder.iterdir()]
    config = parse_config((folder / "adapter_config.json").read_bytes())

    assert card.error == ""
    assert card.library_name == "peft"
    assert [one.tool for one in writers_of(config, files, card)] == ["PEFT"]
