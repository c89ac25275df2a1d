"""One finding for one cause, with what each engine does because of it."""

from pathlib import Path

import pytest

from lora_cli.base.families import base_from_config
from lora_cli.engines import choose_engine
from lora_cli.finding import Finding, Severity
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import base_config, llama_modules, write_adapter

NARROWER = {path: (d_in // 2, d_out // 2) for path, (d_in, d_out) in llama_modules(["q_proj", "v_proj"]).items()}
DEEPER = llama_modules(["q_proj", "v_proj"], layers=4)
OF_GPT2 = {f"transformer.h.{layer}.attn.c_attn": (64, 192) for layer in range(2)}


def checked(tmp_path: Path, modules: dict[str, tuple[int, int]], *engines: str, **config: object) -> Result:
    adapter = write_adapter(tmp_path / "adapter", modules=modules, config=config)
    base = base_from_config(base_config(), "base")
    return judge_one(
        Request("", str(adapter)),
        Terms(base, engines=tuple(map(choose_engine, engines))),
        Settings(cache_dir=tmp_path / "cache"),
    )


def told(one: Result) -> list[Finding]:
    """What counts of it."""
    return [finding for finding in one.findings if finding.severity is not Severity.NOTE]


@pytest.mark.parametrize(
    ("modules", "code"),
    [
        (OF_GPT2, "LC311"),
        (NARROWER, "LC314"),
        (DEEPER, "LC311"),
        ({path: (2 * d_in, 2 * d_out) for path, (d_in, d_out) in NARROWER.items()} | OF_GPT2, "LC311"),
        ({path: (d_in // 4, d_out) for path, (d_in, d_out) in DEEPER.items()}, "LC314"),
    ],
    ids=["other names", "narrower", "deeper", "some other names", "narrower and deeper"],
)
def test_a_wrong_base_is_one_finding_with_what_the_engine_does(
    modules: dict[str, tuple[int, int]], code: str, tmp_path: Path
) -> None:
    one = checked(tmp_path, modules, "vllm")

    (finding,) = told(one)

    (engine,) = one.engines
    assert (finding.code, finding.severity) == (code, Severity.ERROR)
    assert finding.effects == {"vllm": engine.outcome}
    assert finding.problem.message.endswith(f"; {engine} {engine.outcome.phrase}")


def test_what_an_engine_does_for_another_reason_is_a_finding_of_its_own(tmp_path: Path) -> None:
    modules = {
        **llama_modules(["q_proj"]),
        "model.layers.0.self_attn.v_proj": (64, 32),
        "model.layers.0.other": (64, 64),
    }

    left = told(checked(tmp_path, modules, "sglang"))

    assert {"LC311", "LC436"} <= {each.code for each in left}


def test_another_base_in_the_config_is_the_hint_of_that_finding(tmp_path: Path) -> None:
    one = checked(tmp_path, NARROWER, base_model_name_or_path="google/gemma-3-270m-it")

    (finding,) = told(one)

    assert finding.code == "LC314"
    assert finding.problem.hint == "validate against the base that it was trained on, google/gemma-3-270m-it"


def test_every_engine_that_does_something_is_named_and_no_other(tmp_path: Path) -> None:
    (finding,) = told(checked(tmp_path, NARROWER, "vllm", "sglang", "vllm@0.31"))

    said = [part for part in finding.problem.message.split("; ") if part.startswith(("vLLM", "SGLang"))]
    assert said == [
        "vLLM 0.33 serves it incorrectly",
        "SGLang 0.5.23 crashes on it at first use",
        "vLLM 0.31 serves it incorrectly",
    ]


def test_an_engine_applies_no_module_whose_width_is_wrong(tmp_path: Path) -> None:
    result = checked(tmp_path, NARROWER, "vllm", "peft")

    assert {str(result.applied), *(str(one.applied) for one in result.engines)} == {"0/4"}
