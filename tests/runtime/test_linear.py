"""oneDNN's linear layers, held against torch's own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lora_cli.runtime.linear import OneDnnLinear, has_onednn, through_onednn
from lora_cli.runtime.model import load_model
from tests.runtime.families import save_model

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch, or this processor, has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (8, 1, 24), (2, 64, 24), (0, 24)])
def test_they_say_what_torch_says(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        want = layer(x)
        through_onednn(layer)
        assert type(layer) is OneDnnLinear
        torch.testing.assert_close(layer(x), want)
        across = torch.randn(24, 6).t()
        torch.testing.assert_close(layer(across), nn.functional.linear(across, layer.weight, layer.bias))
    assert layer(x.requires_grad_()).requires_grad


def test_a_row_is_the_same_alone_and_among_others() -> None:
    torch.manual_seed(0)
    layer, x = through_onednn(nn.Linear(576, 192)), torch.randn(8, 576)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x)[3:4], layer(x[3:4]), rtol=1e-5, atol=1e-5)


def test_what_is_no_plain_linear_layer_of_float32_is_left_alone() -> None:
    class Other(nn.Linear):
        pass

    model = through_onednn(nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16), Other(4, 4), nn.Conv1d(1, 1, 1)))
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())


def test_a_model_that_is_loaded_has_them(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    model = load_model(tmp_path, dtype=torch.float32, device="cpu")
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert any(type(module) is OneDnnLinear for module in model.modules())
