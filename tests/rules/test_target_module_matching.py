"""How an adapter's modules are sorted, where a base is deep and an adapter hostile."""

import time
from collections.abc import Iterable

import pytest

from lora_cli.adapter.adapter import Adapter, pair_up
from lora_cli.adapter.names import parse_key
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.peft.match import apply


def adapter_on(modules: Iterable[str]) -> Adapter:
    names = [f"base_model.model.{module}.lora_A.weight" for module in modules]
    tensors = {name: TensorInfo(name, "F32", (1, 8), 0, 32, "f") for name in names}
    keys = {name: parse_key(name) for name in names}
    return Adapter("a", (), ("f",), None, None, tensors, None, keys, pair_up(tensors, keys), {})


@pytest.mark.slow
def test_layers_beyond_the_base_are_found_in_time_in_proportion_to_both() -> None:
    layers = {f"model.layers.{layer}.proj": BaseModule(8, 8) for layer in range(4096)}
    base = BaseModel("deep", "llama", layers, num_layers=4096, hidden_size=8)
    absent = [f"other{number}.9999.proj" for number in range(20_000)]
    begun = time.perf_counter()
    application = apply(adapter_on(["model.layers.4095.proj", "model.layers.4096.proj", *absent]), base)
    assert time.perf_counter() - begun < 5
    assert application.found == ("model.layers.4095.proj",)
    assert application.beyond == ("model.layers.4096.proj",)
    assert application.absent == tuple(absent)
