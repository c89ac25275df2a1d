"""Adapters that nobody trained: PEFT's format, finite and different from each other."""

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_cli.bench.synthetic_adapters import total_bytes, write_synthetic
from lora_cli.errors import MachineError
from lora_cli.judging.base_model import open_base
from lora_cli.settings import load_settings
from tests.making import write_base_config


def test_they_are_on_every_linear_module_and_as_large_as_was_said(tmp_path: Path) -> None:
    base = open_base(str(write_base_config(tmp_path / "base")), load_settings({}, {}))
    for name in ("first", "second", "third"):
        write_synthetic(tmp_path / name, base, 4, "first" if name == "third" else name, 7)
    first, second, third = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "second", "third")
    )
    assert len(first) == 2 * 7 * 2
    assert first["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"].shape == (64, 4)
    assert sum(one.nbytes for one in first.values()) == total_bytes(base, {"a": 4})
    values = torch.cat([one.float().abs().ravel() for one in first.values()])
    assert 1 / 128 <= values.min() <= values.max() < 1 / 64
    assert all(torch.equal(first[name], third[name]) for name in first)
    assert not any(torch.equal(first[name], second[name]) for name in first)
    config = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["target_modules"][0] == "down_proj"


def test_a_full_disk_is_an_error_of_this_machine(tmp_path: Path) -> None:
    base = open_base(str(write_base_config(tmp_path / "base")), load_settings({}, {}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(MachineError, match=r"cannot write .*adapter_model\.safetensors"):
            write_synthetic(tmp_path / "adapter", base, 4, "first", 7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
