"""oneDNN's linear layers, held against torch's own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lora_cli.runtime.onednn_linear import OneDnnLinear, PackedLinear, has_onednn, onednn_dtypes, through_onednn, unpack
from lora_cli.runtime.transformers_model import load_model
from tests.runtime.families import save_model

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch, or this processor, has no oneDNN")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (8, 1, 24), (2, 64, 24), (0, 24)])
def test_they_say_what_torch_says(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias, dtype=dtype), torch.randn(shape, dtype=dtype)
    with torch.inference_mode():
        want = layer(x)
        through_onednn(layer)
        assert type(layer) is (PackedLinear if dtype in onednn_dtypes() else nn.Linear)
        torch.testing.assert_close(layer(x), want)
        across = torch.randn(24, 6, dtype=dtype).t()
        torch.testing.assert_close(layer(across), nn.functional.linear(across, layer.weight, layer.bias))
    assert layer(x.requires_grad_()).requires_grad


def test_a_row_is_the_same_alone_and_among_others() -> None:
    torch.manual_seed(0)
    layer, x = through_onednn(nn.Linear(576, 192)), torch.randn(8, 576)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x)[3:4], layer(x[3:4]), rtol=1e-5, atol=1e-5)


def test_a_packed_weight_is_what_it_was_and_can_be_a_parameter_again() -> None:
    layer = nn.Linear(24, 40)
    weight, x = layer.weight.detach().clone(), torch.randn(3, 24)
    through_onednn(layer)
    assert torch.equal(layer.weight, weight)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    with torch.inference_mode():
        before = layer(x)
        unpack(layer)
        assert type(layer) is OneDnnLinear
        assert torch.equal(dict(layer.named_parameters())["weight"], weight)
        torch.testing.assert_close(layer(x), before)


def test_a_weight_that_two_modules_share_stays_one() -> None:
    embedding, head = nn.Embedding(40, 24), nn.Linear(24, 40, bias=False)
    head.weight = embedding.weight
    through_onednn(nn.Sequential(embedding, head))
    assert type(head) is OneDnnLinear
    assert head.weight is embedding.weight


def test_what_is_no_plain_linear_layer_of_this_machine_is_left_alone() -> None:
    class Other(nn.Linear):
        pass

    others = (nn.Linear(4, 4, dtype=torch.float64), Other(4, 4), nn.Conv1d(1, 1, 1), nn.Linear(4, 4, device="meta"))
    assert not any(isinstance(module, OneDnnLinear) for module in through_onednn(nn.Sequential(*others)).modules())


def test_a_model_that_is_loaded_has_them_and_keeps_no_second_copy(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    model = load_model(tmp_path, dtype=torch.float32, device="cpu")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert linear
    assert all(isinstance(module, OneDnnLinear) for module in linear)
    packed = [module for module in linear if isinstance(module, PackedLinear)]
    assert packed
    assert not any("weight" in dict(module.named_parameters()) for module in packed)
