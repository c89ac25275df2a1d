"""The LoRA path of one module is the formula, token by token, and reaches no other token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.errors import Refused
from lora_cli.warm.weights import add_lora, hold
from tests.warm.tiny import CONV, EMBEDDING, LINEAR, MODULES, put, weights

PATHS = (LINEAR, CONV, EMBEDDING)


def inputs(path: str, tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator, module = torch.Generator().manual_seed(1), MODULES[path]
    if module.kind == "embedding":
        return torch.randint(module.d_in, (tokens,), generator=generator)
    return torch.randn(tokens, module.d_in, generator=generator).to(dtype)


@given(st.sampled_from(PATHS), st.sets(st.integers(0, 11)), st.integers(1, 9))
def test_it_is_the_formula_for_its_rows_and_others_keep_their_bits(path: str, rows: set[int], r: int) -> None:
    x, module = inputs(path, 12), weights(r=r)[path]
    base = torch.randn(12, MODULES[path].d_out, generator=torch.Generator().manual_seed(2))
    held = put({path: module}).modules[path]
    found = add_lora(base.clone(), x, held, [slice(row, row + 1) for row in sorted(rows)])
    a, b = module.a.double(), module.b.double()
    shrunk = a[:, x].t() if module.embedding else x.double() @ a.t()
    want = base.double() + module.scaling * (shrunk @ b.t())
    for row in range(12):
        if row in rows:
            assert torch.allclose(found[row].double(), want[row], rtol=0, atol=2e-6 * float(want.abs().max()))
        else:
            assert torch.equal(found[row], base[row])
    assert torch.allclose(add_lora(base.clone(), x, held).double(), want, rtol=0, atol=2e-6 * float(want.abs().max()))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_nan_of_an_adapter_reaches_tokens_of_the_base(path: str, dtype: torch.dtype) -> None:
    held = put(weights(), dtype).modules[path]
    held.a.fill_(float("nan"))
    base = torch.randn(4, MODULES[path].d_out).to(dtype)
    found = add_lora(base.clone(), inputs(path, 4, dtype), held, [slice(1, 3)])
    assert torch.isfinite(found).all(1).tolist() == [True, False, False, True]
    assert torch.equal(found[::3].view(torch.uint8), base[::3].view(torch.uint8))


def test_an_adapter_takes_as_much_memory_as_it_is_large() -> None:
    small, large = put(weights(r=2)), put(weights(r=32), torch.bfloat16)
    elements = sum(module.d_in + module.d_out for module in MODULES.values())
    assert (small.storage.nbytes, large.storage.nbytes) == (2 * elements * 4, 32 * elements * 2)
    for path, module in large.modules.items():
        assert torch.equal(module.a, weights(r=32)[path].a.bfloat16())
        assert module.b.untyped_storage().data_ptr() == large.storage.untyped_storage().data_ptr()


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (1e6, torch.float16)])
def test_what_is_not_finite_in_the_slots_dtype_is_refused(value: float, dtype: torch.dtype) -> None:
    adapter = weights()
    adapter[CONV].b[3, 1] = value
    with pytest.raises(Refused, match=f"mine: {CONV}.lora_B contains NaN or Inf in"):
        hold("mine", adapter, dtype)
