"""The page of vLLM (vllm.md) beside what there is without the engine; ``make test-engines`` holds its cells to it."""

from lora_cli.base.families import FAMILIES
from lora_cli.engines.vllm import NO_LORA
from tests.real_engines.families import BASES
from tests.real_engines.family_page import PAGE, date_of, lines, page
from tests.real_engines.known import NO_ANSWER
from tests.real_engines.test_other_models import MODELS


def test_the_page_is_what_is_made_of_its_cells() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert text == page(lines(), date_of(text)), "GOLDEN=write make test-engines"


def test_every_family_has_a_base_and_every_base_a_line() -> None:
    assert BASES.keys() >= FAMILIES.keys()
    assert lines().keys() == BASES.keys()


def test_the_families_without_lora_are_those_that_vllm_said_it_of() -> None:
    said = {family for family, line in lines().items() if "does not support LoRA yet" in line}

    assert said == NO_LORA & lines().keys()
    # The others have no line: test_other_models runs a class of each.
    run = {architecture.partition("For")[0].lower() for architecture in MODELS}
    assert NO_LORA - lines().keys() <= run
    assert {family for family, line in lines().items() if "/L" in line} == NO_ANSWER.keys()
