"""The bytes of an engine's slots are those of the buffers that the engine itself makes."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.core.architectures import base_from_config
from lora_cli.engines import ENGINES, choose_engine
from lora_cli.engines.slot_sizing import Slots
from lora_cli.errors import UsageError
from tests.making import base_config

SLOTS = Path(__file__).parent / "slots"
RECORDED: dict[str, Any] = {name: json.loads((SLOTS / f"{name}.json").read_text()) for name in ("vllm", "sglang")}


def bytes_of(config: dict[str, Any], engine: str, targets: list[str] | None, tp: int, rank: int = 16) -> int:
    return Slots(choose_engine(engine), base_from_config(config, "tiny"), tp).bytes_of_one(rank, targets)


@pytest.mark.parametrize("name", RECORDED)
def test_a_slot_takes_what_the_engines_own_buffers_take(name: str) -> None:
    recorded = RECORDED[name]
    ours = [
        recorded["slots"]
        * bytes_of(
            recorded["configs"][case["config"]], recorded["engine"], case["targets"], case["tp"], recorded["rank"]
        )
        for case in recorded["cases"]
    ]

    assert ours == [case["bytes"] for case in recorded["cases"]]


@pytest.mark.parametrize("name", RECORDED)
def test_a_family_is_said_to_be_compared_where_it_is_recorded(name: str) -> None:
    layout = ENGINES[name].slots
    assert layout is not None

    assert layout.compared == {config["model_type"] for config in RECORDED[name]["configs"].values()}


def test_a_part_of_a_packed_module_costs_all_of_it() -> None:
    config = base_config("llama")
    whole = bytes_of(config, "vllm", ["q_proj", "k_proj", "v_proj"], 1)

    assert bytes_of(config, "vllm", ["v_proj"], 1) == bytes_of(config, "vllm", ["qkv_proj"], 1) == whole
    assert bytes_of(config, "sglang", ["v_proj"], 1) == whole


def test_tensor_parallelism_that_does_not_divide_is_said() -> None:
    with pytest.raises(UsageError, match="--tp 3 does not divide 64"):
        bytes_of(base_config("llama"), "vllm", None, 3)
