"""What differs between two configs, and in which order it is told."""

from typing import Any

import pytest

from lora_cli.adapter.config import EFFECTS, config_changes, parse_config, peft_fields

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}


def changes(**fields: Any) -> list[tuple[str, str]]:
    other = parse_config({**PLAIN, **fields})
    return [(one.field, one.effect) for one in config_changes(parse_config(PLAIN), other)]


def test_what_changes_the_scale_comes_first_and_what_training_alone_used_last() -> None:
    assert changes(
        peft_version="0.9",
        lora_dropout=0.3,
        odd=1,
        target_modules=["k_proj"],
        revision="x",
        use_dora=True,
        lora_alpha=8,
    ) == [
        ("lora_alpha", "scaling"),
        ("use_dora", "meaning"),
        ("revision", "base"),
        ("target_modules", "modules"),
        ("odd", "unknown"),
        ("lora_dropout", "training"),
        ("peft_version", "training"),
    ]


@pytest.mark.parametrize(
    "same",
    [
        {"target_modules": ["v_proj", "q_proj"]},
        {"target_modules": ["v_proj", "q_proj", "v_proj"]},
        {"bias": "none", "use_rslora": False, "rank_pattern": {}, "modules_to_save": None},
        {"use_dora": None},
    ],
)
def test_what_means_the_same_is_no_difference(same: dict[str, Any]) -> None:
    assert changes(**same) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"r": 16}, {"r": "8"}, {"use_rslora": True}, {"use_rslora": "yes"}, {"rank_pattern": {"q": 4}},
        {"lora_alpha": True}, {"target_modules": "all-linear"}, {"layers_to_transform": [1, 2]},
        {"unknown_to_peft": None},
    ],
)  # fmt: skip
def test_every_other_value_is(fields: dict[str, Any]) -> None:
    assert [name for name, _ in changes(**fields)] == list(fields)


def test_of_lists_of_names_it_is_told_which_are_in_one_alone() -> None:
    (change,) = config_changes(parse_config(PLAIN), parse_config({**PLAIN, "target_modules": ["v_proj", "o_proj"]}))
    assert (change.only_a, change.only_b) == (("q_proj",), ("o_proj",))


@pytest.mark.parametrize(
    ("start", "effect"),
    [
        ("gaussian", "training"),
        (False, "training"),
        ("pissa_niter_4", "meaning"),
        ("olora", "meaning"),
        ("OLoRA", "meaning"),
    ],
)
def test_an_initialisation_means_something_where_it_changes_the_base(start: Any, effect: str) -> None:
    assert changes(init_lora_weights=start) == [("init_lora_weights", effect)]


def test_the_order_of_numbers_counts_and_that_of_pairs_is_kept() -> None:
    assert changes(layer_replication=[[0, 2]]) == [("layer_replication", "modules")]
    one = parse_config({**PLAIN, "layers_to_transform": [1, 2]})
    assert config_changes(one, parse_config({**PLAIN, "layers_to_transform": [2, 1]})) != ()


def test_without_a_config_nothing_is_compared() -> None:
    assert config_changes(None, parse_config(PLAIN)) == ()


def test_every_field_with_an_effect_is_one_of_pefts() -> None:
    assert EFFECTS.keys() <= set(peft_fields())
