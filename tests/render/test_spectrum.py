"""The heat map, the table of kinds and the summary of ``inspect --spectrum``, and the words of ``--diff``."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.comparison import (
    Comparison,
    Distance,
    ModuleComparison,
    ModuleNorm,
    OtherAdapter,
    Side,
    TensorComparison,
    compare_module,
    update_distance,
    with_relation,
)
from lora_cli.core.factors import Unreadable
from lora_cli.core.lora_config import config_changes, parse_config
from lora_cli.core.module_grid import Place, module_positions
from lora_cli.core.spectrum import ModuleSpectrum, Spectrum, spectrum_of
from lora_cli.core.text import brief, percent, times
from lora_cli.render.inspect_facts import comparison_facts, comparison_tables
from lora_cli.render.terminal import rendered
from lora_cli.render.terminal_inspect import COLOURS, SHADES, comparison_parts, spectrum_parts
from lora_cli.validation import Checked

GOLDEN = Path(__file__).parent / "golden"
"""``GOLDEN=write`` writes them anew: look at the difference before you commit it."""

LLAMA = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)


def render_spectrum(spectrum: Spectrum, width: int, *, colour: bool = False, plain: bool = False) -> str:
    return rendered(spectrum_parts(spectrum, plain=plain), width, colour=colour)


def render_comparison(name: str, one: Comparison, width: int) -> str:
    return rendered(comparison_parts(name, one), width)


def module(path: str, norm: float, *, base_norm: float | None = None, experts: int = 1, r: int = 16) -> ModuleSpectrum:
    energy = {1: 0.5, 2: 0.7, 4: 0.9, 8: 0.97} if norm else {}
    ranks = (7.25, 11) if norm else (0.0, 0)
    relative = norm / base_norm if base_norm else None
    place = (path, path, "", None, "")
    return ModuleSpectrum(*place, r, 2.0, 64, 64, experts, norm, base_norm, relative, *ranks, energy, (), ())


def llama(layers: int, *, base: bool = False) -> tuple[ModuleSpectrum, ...]:
    sizes = [
        (f"model.layers.{i}.{name}", 0.1 + 0.02 * i + 0.05 * j) for i in range(layers) for j, name in enumerate(LLAMA)
    ]
    return tuple(module(path, norm, base_norm=50.0 if base else None) for path, norm in sizes)


def everything() -> Spectrum:
    modules = list(llama(4))
    modules[9] = replace(modules[9], norm=9.5)
    modules[12] = module(modules[12].path, 0.0)
    modules += [module(f"model.layers.{i}.mlp.experts.gate_up_proj", 1.5, experts=8) for i in range(4)]
    modules += [module(f"vision_tower.blocks.{i}.attn.qkv", 0.4) for i in range(2)]
    modules += [module("lm_head", 0.7), module("model.embed_tokens", 0.9)]
    without = (
        Unreadable("model.layers.0.mlp.router", "lora_B holds NaN or infinity"),
        Unreadable("score", "lora_A is missing"),
    )
    return spectrum_of(modules, without, ("DoRA's magnitudes (28 tensors)",), "the base's weights are quantised")


def comparison() -> Comparison:
    config = {
        "peft_type": "LORA",
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["q_proj", "v_proj"],
        "lora_dropout": 0.1,
    }
    other = {**config, "lora_alpha": 64, "target_modules": ["v_proj", "k_proj"], "lora_dropout": 0.0, "odd": [1, 2]}
    side = Side(16, 2.0, (16, 64), (64, 16), ("BF16",))
    wide = Side(8, 4.0, (8, 64), (64, 8), ("F16",))
    near = Distance(1.0, 1.1, 1.0, 1.0, 0.45, 0.4, 0.003, 0.003)

    def each(path: str, distance: Distance | None, b: Side = side, reason: str = "") -> ModuleComparison:
        return compare_module(path, path, side, b, distance or reason)

    attention = "model.layers.{}.self_attn.{}_proj".format
    modules = [
        *(each(attention(i, "q"), replace(near, inner=1.0 - 0.02 * i, distance=0.45 + i / 50)) for i in range(12)),
        each("lm_head", Distance(2.0, 2.0, 4.0, 1.0, 0.0, 0.0, 0.01, 0.01)),
        each("score", Distance(2.0, 4.0, 8.0, 2.0, 2.0, 0.0, 0.01, 0.01), wide),
        each(attention(3, "v"), Distance(1.0, 1.0, 0.01, 0.01, 1.4, 1.0, 0.01, 0.01)),
        each(attention(4, "v"), None, replace(side, lora_A=None), "B: lora_A is missing"),
    ]
    only = tuple(ModuleNorm(f"model.layers.{i}.self_attn.k_proj", 0.5) for i in range(12))
    return with_relation(
        Comparison(
            OtherAdapter("./sql-v2", "file:///srv/sql-v2", "ab" * 32), "unknown", "", update_distance(None),
            config_changes(parse_config(config), parse_config(other)), (), only, tuple(modules),
            (TensorComparison("base_model.model.lm_head.weight", "saved", "both", equal=False, difference=0.25),),
            "", "",
        )
    )  # fmt: skip


def valued(checked: Checked, word: str) -> Checked:
    """``checked`` with all that ``--spectrum`` and ``--diff`` say, in which every word from outside is ``word``."""
    spectrum, beside = everything(), comparison()
    odd = (module(f"{word}.layers.1.{word}", 0.3), module(word, 0.2))
    spectrum = replace(spectrum, modules=(*spectrum.modules, *odd), without=(Unreadable(word, word),), left_out=(word,))
    modules = [*beside.modules, replace(beside.modules[-1], module=word, path=word, reason=word)]
    fields = [*beside.fields, replace(beside.fields[0], field=word, a=word, only_b=(word,))]
    beside = replace(
        beside,
        with_=OtherAdapter(word, word, word),
        reason=word,
        hint=word,
        modules=tuple(modules),
        fields=tuple(fields),
    )
    tensors = tuple(replace(one, name=word, reason=word) for one in beside.tensors)
    return replace(checked, spectrum=spectrum, comparison=replace(beside, tensors=tensors))


TEXTS: dict[str, Callable[[int], str]] = {
    "spectrum": lambda width: render_spectrum(everything(), width),
    "spectrum-of-base": lambda width: render_spectrum(spectrum_of(llama(32, base=True)), width),
    "comparison": lambda width: render_comparison("./sql", comparison(), width),
}


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("name", TEXTS)
def test_it_reads_as_its_golden_file_says_and_fits(name: str, width: int) -> None:
    text, file = TEXTS[name](width), GOLDEN / f"{name}.{width}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    # A path that is longer than its column stays whole, to be copied.
    assert all(len(line) <= width or len(line.split()[-1]) > width // 2 for line in text.splitlines())
    assert "\x1b" not in text


def test_every_module_is_in_the_map_or_named() -> None:
    text = render_spectrum(everything(), 80)
    for kind in ("q_proj", "gate_up_proj", "qkv", "lm_head", "model.embed_tokens", "router", "score"):
        assert kind in text
    assert text.count("none") == 1  # the router's cell in layer 0
    assert "9.50" in text
    assert "DoRA" in text


def test_a_shade_grows_with_the_number_and_an_outlier_does_not_bleach_the_others() -> None:
    modules = [module(f"model.layers.{i}.q_proj", 1.0 + i / 10) for i in range(20)]
    lines = render_spectrum(spectrum_of((*modules, module("model.layers.20.q_proj", 5000.0))), 80).splitlines()
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0].isdigit()]
    assert [row[0] for row in rows] == [str(i) for i in range(21)]
    shades = [row[1] for row in rows]
    assert shades == sorted(shades, key=SHADES.index)
    assert len(set(shades[:20])) > 2
    assert shades[20] == "██"


def test_each_shade_has_a_colour_of_its_own_and_is_in_the_legend_with_it() -> None:
    text = render_spectrum(everything(), 80, colour=True)
    (legend,) = [line for line in text.splitlines() if line.startswith("shades from")]
    assert len(set(COLOURS)) == len(SHADES)
    assert all(shade in legend for shade in SHADES)
    assert legend.count("\x1b[0m") == len(SHADES)
    for line in render_spectrum(everything(), 40).splitlines():
        assert len(line) <= 40 or "model." in line


def test_in_ascii_there_are_shades_too() -> None:
    text = render_spectrum(everything(), 80, plain=True)
    assert text.isascii()
    assert "##" in text
    assert "::" in text


def test_what_stands_out_is_coloured_where_there_is_colour() -> None:
    text = render_spectrum(everything(), 80, colour=True)
    assert "\x1b[7;31m██\x1b[0m\x1b[7m  9.50\x1b[0m" in text
    assert text.count("\x1b[7;") == 1
    plain = "".join(part.partition("m")[2] if i else part for i, part in enumerate(text.split("\x1b[")))
    lines = [line.rstrip() for line in plain.splitlines()]
    assert lines == render_spectrum(everything(), 80).splitlines()


def test_many_layers_are_drawn_together_and_their_largest_is_shown() -> None:
    modules = [module(f"model.layers.{i}.q_proj", 7.0 if i == 100 else 1.0) for i in range(126)]
    lines = render_spectrum(spectrum_of(modules), 80).splitlines()
    rows = [line for line in lines if "-" in line and line.strip()[0].isdigit()]
    assert len(rows) == 42
    assert [row for row in rows if "7.00" in row] == [" 99-101  ██  7.00"]
    assert "a row of several layers shows the largest" in lines


@pytest.mark.slow
def test_hundreds_of_kinds_and_stacks_do_not_fill_the_terminal() -> None:
    many = [module(f"stack{i}.{i}.kind{j}", 1.0) for i in range(200) for j in range(200)]
    lines = render_spectrum(spectrum_of(many), 80).splitlines()
    assert len(lines) < 500
    assert any("196 more stacks" in line for line in lines)
    assert any("160 more kinds" in line for line in lines)


def test_nothing_of_a_spectrum_that_could_not_be_read_is_shown() -> None:
    text = render_spectrum(
        Spectrum(None, None, unread="its values are far away", hint="lora-cli fetch hf://org/name"), 80
    )
    assert text == "spectrum (none)\n  its values are far away\n  hint: lora-cli fetch hf://org/name\n"


def test_names_move_no_cursor() -> None:
    text = render_spectrum(spectrum_of((module("model.layers.0.\x1b[2Jq\u202e", 1.0), module("\x07bell", 1.0))), 80)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x07" not in text
    one = comparison()
    renamed = tuple(replace(each, path="\x1b[2J") for each in one.modules)
    assert "\x1b" not in render_comparison(
        "\x1b[2J", replace(one, modules=renamed, with_=OtherAdapter("\x07", "", "")), 80
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (123456.0, "1e5"), (1234.0, "1234"), (99.96, "100"), (99.94, "99.9"), (9.996, "10.0"),
        (1.0, "1.00"), (0.9996, "1.00"), (0.5, "0.500"), (0.0123, "0.012"), (0.00996, "0.010"), (0.004, "4e-3"),
        (1e-300, "1e-300"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_numbers_are_brief(value: float, text: str) -> None:
    assert brief(value) == text


def test_shares_and_ratios_are_as_people_say_them() -> None:
    assert [percent(share) for share in (0.0, 0.00123, 0.05, 0.5, 1.0)] == ["0 %", "0.12 %", "5 %", "50 %", "100 %"]
    assert [times(ratio) for ratio in (4.12, 0.2)] == ["4.1 times", "1/5"]


def test_kinds_are_told_apart_by_as_much_of_their_names_as_that_takes() -> None:
    assert module_positions(
        [
            "encoder.block.0.layer.0.SelfAttention.q",
            "decoder.block.0.layer.0.SelfAttention.q",
            "decoder.block.0.layer.1.EncDecAttention.q",
            "model.layers.3.mlp.experts.17.w1",
            "model.layers.3.mlp.experts.18.w1",
            "model.layers.3.mlp.shared_expert.w2",
            "lm_head",
            "classifier.0",
            "model.layers.1234567890.w1",
        ]
    ) == {
        "encoder.block.0.layer.0.SelfAttention.q": Place("q", "encoder.block", 0),
        "decoder.block.0.layer.0.SelfAttention.q": Place("SelfAttention.q", "decoder.block", 0),
        "decoder.block.0.layer.1.EncDecAttention.q": Place("EncDecAttention.q", "decoder.block", 0),
        "model.layers.3.mlp.experts.17.w1": Place("w1", "model.layers", 3),
        "model.layers.3.mlp.experts.18.w1": Place("w1", "model.layers", 3),
        "model.layers.3.mlp.shared_expert.w2": Place("w2", "model.layers", 3),
        "lm_head": Place("lm_head"),
        "classifier.0": Place("classifier.0"),
        "model.layers.1234567890.w1": Place("model.layers.1234567890.w1"),
    }


@pytest.mark.parametrize(("changes", "others"), [(6, []), (7, ["and 1 other changes, in --format json"])])
def test_six_changes_of_a_property_are_listed_and_the_others_counted(changes: int, others: list[str]) -> None:
    one = comparison().modules[0]
    modules = tuple(
        replace(one, differing=("rank",), path=f"layers.{n}.q_proj", b=replace(one.b, r=n)) for n in range(changes)
    )
    told = [value for label, value in comparison_facts("a", replace(comparison(), modules=modules)) if label == "rank"]
    assert told[6:] == others
    assert told[0].startswith("16 -> 0: ")


def test_tensors_without_a_difference_come_first_and_then_the_largest_differences() -> None:
    (tensor,) = comparison().tensors
    tensors = tuple(replace(tensor, name=str(size), difference=size) for size in (0.1, None, 0.5))
    table = next(one for one in comparison_tables(replace(comparison(), tensors=tensors)) if one.header[0] == "tensor")
    assert [row[0] for row in table.rows] == ["None", "0.5", "0.1"]
