"""What is said of each module is what PEFT has there."""

from collections.abc import Callable

import pytest

from lora_cli.adapter.reading import read_adapter
from lora_cli.judging.inspection import inspection_of
from lora_cli.sources.files import files_at
from tests.peft.peft_models import Written


@pytest.mark.parametrize("case", ["llama list", "llama patterns", "qwen2 rslora", "mixtral patterns", "qwen3_moe list"])
def test_rank_scaling_and_widths_are_those_of_peft(case: str, peft_wrote: "Callable[[str], Written]") -> None:
    written = peft_wrote(case)
    adapter = read_adapter(files_at(written.directory), "tiny")

    said = inspection_of(adapter)
    facts = {one.module: one for one in said.by_module}
    assert facts.keys() == written.layers.keys()
    for path, layer in written.layers.items():
        one, base = facts[path], written.base.modules.get(path)
        assert (one.r, one.scaling) == (layer.r * layer.num_experts, layer.scaling), path
        if base is not None:
            assert (one.d_in, one.d_out) == (base.d_in, base.d_out)
            assert one.parameters == layer.r * (base.d_in + base.d_out)
        assert one.bytes == 4 * one.parameters
    assert said.parameters == sum(one.parameters for one in said.by_module)
