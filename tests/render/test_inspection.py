"""What ``inspect`` says to people and machines: its schema, narrow terminals, and hostile names."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lora_cli.adapter.beside import Card
from lora_cli.adapter.comparison import Change, Comparison, OtherAdapter
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import base_from_config
from lora_cli.judging.engine_args import EngineArgs, Remark
from lora_cli.judging.inspection import Inspected, Inspection, InspectReport, ModuleFacts
from lora_cli.judging.result import Result
from lora_cli.render.json import to_json
from lora_cli.render.terminal import rendered
from lora_cli.render.terminal_inspect import engine_args_parts, inspection_parts
from tests.making import base_config
from tests.render.reports import HOSTILE, all_checked
from tests.schemas import check_schema

BASE = base_from_config(base_config("llama"), "tiny")


def described(word: str = "sql") -> Inspection:
    """An inspection in which every field says something, and every word from outside is ``word``."""
    names = [f"model.layers.{layer}.self_attn.{leaf}" for layer in range(3) for leaf in ("q_proj", word)]
    modules = [
        ModuleFacts(name, 8 + 8 * (i == 3), 2.0 if i else 4.0, 64, 64, "BF16", 1024, 2048)
        for i, name in enumerate(names)
    ]
    listed = (word,)
    card = Card(word, word, word, listed, word)
    return Inspection(
        format=word, base=word, base_revision=word, peft_version=word, task_type=word, modules=6, ranks={8: 5, 16: 1},
        scalings={2.0: 5, 4.0: 1}, targets={"q_proj": 3, word: 3}, layers=(0, 1, 2), dtypes={"BF16": 12},
        parameters=6144, weight_bytes=12288, total_bytes=20000, files=3, sha256="ab" * 32,
        features=(word,), card=card,
        by_module=tuple(modules),
    )  # fmt: skip


def flags(word: str = "sql") -> EngineArgs:
    """Flags with all that can be said of them."""
    return EngineArgs(
        engine="vllm", version="0.40", flags=("--enable-lora",),
        command="vllm serve acme/base \\\n  --enable-lora",
        max_lora_rank=256, lora_target_modules=("q_proj", "v_proj"), max_loras=3, max_cpu_loras=4, slot_bytes=2 << 30,
        served=(word, "tone"), left_out=(Remark(word, word, word, 1),), served_wrong=(Remark(word, word),),
        absent=(word,), note=word,
    )  # fmt: skip


def compared(word: str) -> Comparison:
    """A comparison in which everything differs."""
    changes = Change(word, word, None), Change(word, (word,), ())
    tensors = (Change(word, word, None), Change(word, None, word))
    return Comparison(OtherAdapter(word, word, word), changes, tensors)


def inspected(
    results: Iterable[tuple[Result, Inspection | None]],
    base: BaseModel | None = None,
    args: EngineArgs | None = None,
    diff: Comparison | None = None,
) -> InspectReport:
    adapters = tuple(Inspected(one, found, diff) for one, found in results)
    return InspectReport(base=base, adapters=adapters, engine_args=args)


def text_of(checked: Sequence[Result], width: int, word: str = "sql", *, colour: bool = False) -> str:
    """What people read of these adapters."""
    report = inspected([(one, described(word)) for one in checked], BASE, diff=compared(word))
    return rendered(inspection_parts(report, width), width, colour=colour)


def flags_text(width: int, word: str = "sql") -> str:
    args = flags(word)
    return rendered(engine_args_parts(inspected([], BASE, args), args), width)


def documents(word: str) -> list[dict[str, Any]]:
    checked = [*all_checked(), replace(all_checked()[0], card=None)]
    reports = [
        inspected([(one, described(word)) for one in checked], BASE, flags(word), diff=compared(word)),
        inspected([(checked[-1], None)]),
        inspected([], None, replace(flags(word), served=())),
    ]
    return [json.loads(to_json(report)) for report in reports]


@pytest.mark.parametrize("word", ["sql", HOSTILE, "\udc80"])
def test_the_document_is_valid_by_its_schema_which_names_every_key(word: str) -> None:
    for document in documents(word):
        check_schema(document)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_people_read_it_in_any_width(width: int) -> None:
    checked = all_checked()[3]
    for text in (text_of([checked], width), flags_text(width)):
        # What is to be copied whole (digests, references, a command) is never broken.
        long = [line for line in text.splitlines() if len(line) > width]
        assert all(len(line.split()) == 2 or line.strip().startswith("--") or "vllm serve" in line for line in long)
    said = " ".join(text_of([checked], width).split())
    assert "8 (5 modules), 16 (1 module: sql in layer 1)" in said


def test_modules_of_a_rank_are_drawn_together_by_last_name_and_layer() -> None:
    among = [f"model.layers.{layer}.self_attn.{leaf}_proj" for layer in range(4) for leaf in "qkv"] + ["lm_head"]
    higher = {
        name
        for name in among
        if name.endswith(("q_proj", "lm_head")) or (name.endswith("k_proj") and ".2." not in name)
    }
    modules = [ModuleFacts(name, 16 if name in higher else 32, 2.0, 64, 64, "BF16", 1024, 2048) for name in among]
    modules += [replace(modules[0], module=f"m.{i}.fc1", r=32) for i in range(9)]
    report = inspected([(all_checked()[3], replace(described(), by_module=tuple(modules)))])
    said = " ".join(rendered(inspection_parts(report, 200), 200).split())
    assert "32 (14 modules), 16 (8 modules: q_proj, k_proj in layers 0-1, 3, lm_head)" in said


def test_several_are_compared_in_a_table_and_what_they_share_is_told_once() -> None:
    first, second, third = (replace(one, name=f"a{i}") for i, one in enumerate(all_checked()[:3]))
    adapters = [(first, described()), (second, replace(described(), total_bytes=4096, ranks={4: 6})), (third, None)]
    text = rendered(inspection_parts(inspected(adapters, BASE), 120), 120)
    lines = [line.split() for line in text.splitlines()]

    assert lines[0] == ["adapter", "targets", "dtype", "rank", "scaling", "size"]
    assert lines[1] == ["a0", "q_proj,", "sql", "BF16", "8-16", "2", "to", "4", "19.5", "KiB"]
    assert lines[2] == ["a1", "q_proj,", "sql", "BF16", "4", "2", "to", "4", "4.0", "KiB"]
    assert lines[3] == ["a2", "not", "read", "-", "-", "-", "-"]
    assert "all 2 adapters that were read" in text
    assert text.count("layers ") == text.count("license ") == 1
    assert text.count("\n  size ") == 2
    assert text_of([first], 120).startswith("a0\n  source ")
    other = [adapters[0], (second, replace(described(), base="acme/other"))]
    text = rendered(inspection_parts(inspected(other, BASE), 120), 120)
    assert [line.split()[:2] for line in text.splitlines()[:3]] == [["adapter", "base"], ["a0", "sql"], ["a1", "other"]]
    assert text.count("\n  base ") == 2


def test_no_name_moves_the_cursor_or_is_a_command() -> None:
    checked = all_checked()[2]
    for text in (text_of([checked], 80, HOSTILE), text_of([checked, checked], 80, HOSTILE), flags_text(80, HOSTILE)):
        assert all(line.isprintable() for line in text.splitlines())
    document = to_json(inspected([(checked, described(HOSTILE))], BASE, flags(HOSTILE)))
    assert "##[" not in document
