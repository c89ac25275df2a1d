"""A folder with what a trainer left and no weights: nobody is told to call a pickle ``adapter_model.safetensors``."""

from pathlib import Path

import pytest

from tests.attacks.measured import lora_cli
from tests.making import write_adapter


@pytest.mark.parametrize("left", [["training_args.bin"], ["optimizer.pt", "rng_state_0.pth", "scheduler.pt"]])
def test_the_hint_is_to_find_the_weights(left: list[str], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    for name in left:
        (adapter / name).write_bytes(b"\x80\x04N.")
    said = " ".join(lora_cli("validate", adapter, "--base", "none").out.split())
    assert "LC101" in said
    assert "rename" not in said
    assert "hint: use the folder that contains adapter_model.safetensors" in said
