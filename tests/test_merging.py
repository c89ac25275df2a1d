"""What docs/inspect.md says of merging: the merged model answers as PEFT does with the adapter."""

import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.conftest import ROOT
from tests.runtime.families import tiny_model


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers' own, of PEFT's use of it
def test_the_lines_of_the_page_merge_an_adapter(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    page = (ROOT / "docs" / "inspect.md").read_text()
    found = re.search(r"## Merging into the base\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    base: Any = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    trained = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, init_lora_weights=False))
    trained.save_pretrained(tmp_path / "adapter")
    code = found[1].replace("ORG/BASE", str(tmp_path / "base")).replace('"./', f'"{tmp_path}/')
    with mock.patch("transformers.AutoTokenizer.from_pretrained"):
        exec(code, {})

    words = torch.tensor([[1, 5, 9, 2]])
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    expected = PeftModel.from_pretrained(fresh, tmp_path / "adapter")(words).logits
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(words).logits
    assert torch.allclose(merged, expected, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")(words).logits
    assert not torch.allclose(merged, plain, atol=1e-3)
