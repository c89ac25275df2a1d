"""The smallest limits with which an engine serves some adapters; the bytes of a slot are those of its own buffers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lora_cli.base.families import base_from_config
from lora_cli.engines import ENGINES, choose_engine
from lora_cli.engines.slot_sizing import Need, SlotLimits, Slots
from lora_cli.judging.engine_args import Located, for_shell, options_of
from tests.making import base_config, llama_modules

BASE = base_from_config(base_config("llama", torch_dtype="bfloat16"), "tiny")
SLOTS = Path(__file__).parent / "slots"
RECORDED: dict[str, Any] = {name: json.loads((SLOTS / f"{name}.json").read_text()) for name in ("vllm", "sglang")}

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def need(name: str, rank: int, leaves: Iterable[str] = ("q_proj", "v_proj")) -> Need:
    return Need(name, rank, frozenset(leaves), llama_modules(leaves))


def slots(engine: str = "vllm", *, base: bool = True) -> Slots:
    return Slots(choose_engine(engine), BASE if base else None)


@pytest.mark.parametrize(("needed", "allowed"), [(1, 1), (2, 8), (9, 16), (24, 32), (64, 64), (257, 320), (512, 512)])
def test_vllm_takes_the_next_rank_that_it_allows(needed: int, allowed: int) -> None:
    assert slots().fit([need("a", needed)], SlotLimits()).max_lora_rank == allowed


def test_sglang_takes_the_rank_itself_and_a_slot_for_the_base() -> None:
    fit = slots("sglang").fit([need("a", 24), need("b", 5)], SlotLimits())

    assert (fit.max_lora_rank, fit.max_loras, fit.max_cpu_loras) == (24, 3, 3)
    assert fit.lora_target_modules == ("q_proj", "v_proj")


def test_all_adapters_stay_on_the_gpu_unless_that_is_limited() -> None:
    needs = [need(name, 8) for name in "abcde"]

    assert slots().fit(needs, SlotLimits()).max_loras == 5
    bound = slots().fit(needs, SlotLimits(slots=2))
    assert (bound.max_loras, bound.max_cpu_loras) == (2, 5)
    assert slots().fit(needs, SlotLimits(slots=2, memory=3)).max_cpu_loras == 3
    assert slots().fit(needs, SlotLimits(slots=100)).max_loras == 5


def test_targets_are_named_where_that_makes_slots_smaller() -> None:
    some = slots().fit([need("a", 8)], SlotLimits())
    everything = [name for names in slots().widths for name in names]
    whole = slots().fit([need("a", 8, everything)], SlotLimits())

    assert some.lora_target_modules == ("q_proj", "v_proj")
    assert some.slot_bytes < some.whole_slot_bytes == whole.slot_bytes == whole.whole_slot_bytes
    assert whole.lora_target_modules is None


def test_without_a_base_the_adapters_own_modules_are_the_least() -> None:
    known, unknown = (slots(base=base).fit([need("a", 8)], SlotLimits()) for base in (True, False))

    assert unknown.lower_bound
    assert unknown.lora_target_modules is None
    assert 0 < unknown.slot_bytes < known.slot_bytes  # which also has k_proj, packed with the two
    assert slots("sglang", base=False).fit([need("a", 8)], SlotLimits()).lora_target_modules == ("q_proj", "v_proj")


def test_who_drives_the_rank_or_the_modules_is_told_with_what_the_others_need() -> None:
    needs = [need("tone", 8), need("support", 16), need("sql", 256), need("code", 8, ("gate_proj", "up_proj"))]

    rank, modules = slots().drivers(needs, SlotLimits())
    assert (rank.adapters, rank.without.max_lora_rank, rank.without.max_loras) == (("sql",), 16, 3)
    assert (modules.adapters, modules.without.lora_target_modules) == (("code",), ("q_proj", "v_proj"))
    assert rank.without.slot_bytes < modules.without.slot_bytes < slots().fit(needs, SlotLimits()).slot_bytes


def test_two_that_drive_together_are_told_together() -> None:
    needs = [need("tone", 8), need("sql", 256), need("more", 200)]

    (driver,) = slots().drivers(needs, SlotLimits())
    assert driver.adapters == ("sql", "more")
    assert slots().drivers([need("tone", 8), need("other", 8)], SlotLimits()) == ()


def test_what_is_driven_is_told_without_a_base_too() -> None:
    (driver, *_) = slots(base=False).drivers([need("tone", 8), need("sql", 64)], SlotLimits())

    assert driver.adapters == ("sql",)


def test_a_path_that_is_no_plain_word_reaches_the_engine_whole() -> None:
    flags = slots("sglang").layout.flags
    fit = slots("sglang").fit([need("a", 8)], SlotLimits())
    located = [Located("a", "/srv/my adapters/a"), Located("b", "/srv/a,b"), Located("c", "/srv/c", pinned=True)]

    *_, (flag, *words) = options_of(flags, fit, located)
    assert flag == "--lora-paths"
    assert words == [
        "a=/srv/my adapters/a",
        '{"lora_name": "b", "lora_path": "/srv/a,b"}',
        '{"lora_name": "c", "lora_path": "/srv/c", "pinned": true}',
    ]
    assert for_shell(words[:1]) == "'a=/srv/my adapters/a'"


def bytes_of(config: dict[str, Any], engine: str, targets: list[str] | None, rank: int = 16) -> int:
    return Slots(choose_engine(engine), base_from_config(config, "tiny")).bytes_of_one(rank, targets)


@pytest.mark.parametrize("name", RECORDED)
def test_a_slot_takes_what_the_engines_own_buffers_take(name: str) -> None:
    recorded = RECORDED[name]
    ours = [
        recorded["slots"]
        * bytes_of(recorded["configs"][case["config"]], recorded["engine"], case["targets"], recorded["rank"])
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
    whole = bytes_of(config, "vllm", ["q_proj", "k_proj", "v_proj"])

    assert bytes_of(config, "vllm", ["v_proj"]) == bytes_of(config, "vllm", ["qkv_proj"]) == whole
    assert bytes_of(config, "sglang", ["v_proj"]) == whole
