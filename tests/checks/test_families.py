"""Bases of families that a profile says nothing about: no engine is said to serve them."""

from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.base.base_model import UNKNOWN_FAMILY, BaseModel
from lora_cli.base.families import FAMILIES
from lora_cli.base.from_transformers import base_from_transformers
from lora_cli.engines import ENGINES, choose_engine
from lora_cli.engines.vllm import LISTED, NO_LORA
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import llama_modules, write_adapter, write_base_config

SERVING = tuple(name for name in ENGINES if name != "peft")
T5 = {"model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 256}


def llama(tmp_path: Path) -> BaseModel:
    return open_base(str(write_base_config(tmp_path / "base")), Settings(cache_dir=tmp_path / "cache"))


def said(tmp_path: Path, base: BaseModel, *engines: str, **modules: tuple[int, int]) -> dict[str, tuple[str, str]]:
    """What each engine does with a good adapter on ``base``, in words, and the note on it."""
    adapter = write_adapter(tmp_path / "adapter", modules=modules or llama_modules(), r=8)
    terms = Terms(base, engines=tuple(map(choose_engine, engines)))
    checked = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))
    assert checked.error is None
    return {one.engine: (one.outcome.label, one.note) for one in checked.engines}


def queries(base: BaseModel) -> dict[str, tuple[int, int]]:
    """What T5 calls its queries, in shapes of an adapter."""
    return {path: (one.d_in, one.d_out) for path, one in base.modules.items() if path.endswith("Attention.q")}


def test_no_engine_serves_an_encoder_decoder_right(tmp_path: Path) -> None:
    base = base_from_transformers(T5)

    found = said(tmp_path, base, *ENGINES, **queries(base))

    assert found["peft"] == ("ok", "")
    assert found["vllm"] == ("rejects", "")
    assert [name for name, (label, _) in found.items() if label == "ok"] == ["peft"]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", dict.fromkeys(SERVING, "ok")),
        (min(LISTED), {**dict.fromkeys(SERVING, "unknown"), "vllm": "ok"}),
        ("m2m_100", dict.fromkeys(SERVING, "unknown")),
        ("distilbert", {**dict.fromkeys(SERVING, "unknown"), "vllm": "rejects"}),
        (UNKNOWN_FAMILY, dict.fromkeys(SERVING, "ok")),
    ],
)
def test_an_engine_serves_the_families_that_are_known_of_it(
    family: str, expected: dict[str, str], tmp_path: Path
) -> None:
    found = said(tmp_path, replace(llama(tmp_path), model_type=family, architecture=""), *SERVING)

    assert {name: label for name, (label, _) in found.items()} == expected


def test_a_checkpoint_alone_is_told_by_its_modules(tmp_path: Path) -> None:
    base = replace(base_from_transformers(T5), model_type=UNKNOWN_FAMILY)

    label, note = said(tmp_path, base, "vllm", **queries(base))["vllm"]

    assert label == "unknown"
    assert note.startswith("without the base's family it is unknown whether it serves the adapter: there is a module")


def test_no_family_is_listed_twice() -> None:
    assert LISTED & (FAMILIES.keys() | NO_LORA) == set()
