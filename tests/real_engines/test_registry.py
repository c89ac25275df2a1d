"""What the classes of the real vLLM say of themselves, beside the tables of our profile (``make test-engines``)."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from lora_cli.base.families import FAMILIES
from lora_cli.engines import choose_engine
from lora_cli.engines.vllm import EMBEDDINGS, FUSED_EXPERTS, LORA_SINCE, NO_LORA, WITH_LORA
from tests.real_engines.vllm_oracle import Worker

pytestmark = pytest.mark.engines

OTHER_SCALE = frozenset({"vaultgemma"})
"""A family whose embedding with LoRA is loaded and served wrong."""

FEWEST = 300
"""Classes that 0.32 has at least."""


@pytest.fixture(scope="module")
def classes(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    (found,) = worker.ask(tmp_path_factory.mktemp("registry") / "classes.json", {})
    assert len(found) > FEWEST
    return dict(found)


def families() -> Iterator[tuple[str, str]]:
    """(class, ``model_type``) of every model of transformers that generates text."""
    from transformers.models.auto import modeling_auto

    for tables in ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"):
        for family, named in getattr(modeling_auto, tables).items():
            yield from ((one, family) for one in ((named,) if isinstance(named, str) else named))


def test_a_class_supports_lora_where_the_profile_says_so(classes: Mapping[str, Mapping[str, Any]]) -> None:
    profile = choose_engine("vllm@0.32")
    known = FAMILIES.keys() | WITH_LORA | NO_LORA
    asked = {(one, family) for one, family in families() if one in classes and (family in known or one in LORA_SINCE)}
    asked |= {(one, "") for one in LORA_SINCE if one in classes}

    said = {one: profile.has_lora(*one) for one in asked}
    assert len(said) > 100
    assert {one: has for one, has in said.items() if has != classes[one[0]]["lora"]} == {}


def test_the_embedding_and_the_head_have_lora_where_the_profile_says_so(
    classes: Mapping[str, Mapping[str, Any]],
) -> None:
    compared = {
        (one, family): (sorted(EMBEDDINGS.get(family, ())), classes[one]["embeddings"])
        for one, family in families()
        if one in classes and classes[one]["lora"] and not classes[one]["multimodal"]
        if family in FAMILIES or family in WITH_LORA
    }

    differ = {family: both for (_, family), both in compared.items() if both[0] != both[1]}
    assert len(compared) > 60
    assert differ.keys() <= OTHER_SCALE, differ


def test_experts_are_in_one_tensor_where_the_profile_says_so(classes: Mapping[str, Mapping[str, Any]]) -> None:
    fused = {family for one, family in families() if one in classes and classes[one]["fused_experts"]}

    assert fused & (FAMILIES.keys() | WITH_LORA) == FUSED_EXPERTS & {family for _, family in families()}
