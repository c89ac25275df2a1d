"""What the hints of engines tell to do is what helps."""

from pathlib import Path

import numpy as np
import pytest

from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.architectures import base_from_config
from lora_cli.engines import ENGINES, choose_engine
from lora_cli.engines.profile import MERGE
from lora_cli.settings import Settings
from lora_cli.validation import Terms, validate
from tests.making import HIDDEN, Q_PROJ, base_config, write_adapter


def test_names_are_corrected_by_a_base_and_the_hint_asks_for_it() -> None:
    mends = {row.mend for engine in ENGINES.values() for row in engine.rows if "corrects the names" in row.mend}

    assert len(mends) >= 3
    assert all("--base BASE" in mend for mend in mends)


@pytest.mark.parametrize(("said", "reason"), [(True, "dora"), (False, "names-outside-grammar")])
def test_no_hint_of_a_dora_adapter_promises_that_repair_helps(tmp_path: Path, said: bool, reason: str) -> None:
    magnitude = {f"base_model.model.{Q_PROJ}.lora_magnitude_vector": np.ones(HIDDEN, "f4")}
    adapter = write_adapter(tmp_path / "dora", config={"use_dora": said}, tensors=magnitude)
    terms = Terms(base_from_config(base_config(), "base"), engines=(choose_engine("vllm"),))

    verdict = validate(AdapterRequest("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache")).verdict

    assert verdict is not None
    mends = {one.feature: one.mend for one in verdict.engines[0].reasons if one.code == "LC402"}
    assert mends == {reason: MERGE}
