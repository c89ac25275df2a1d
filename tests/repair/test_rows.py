"""What a row of an engine says that ``repair`` mends, it mends: on the case that shows the row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.engines import choose_engine
from lora_cli.finding import Deployment, Reason
from lora_cli.judging.base_model import open_base
from lora_cli.judging.repair import RepairOptions, repair_adapter
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.engines.test_cases import PROFILES, by_profile
from tests.rule_cases import all_cases, base_directory
from tests.rules.test_cases import judged


@pytest.fixture(scope="module")
def promises(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Mapping[str, Any], str, Reason, Path]]:
    """Each reason that names repair: the case, the engine, the reason and where the case is."""
    found = []
    for case in all_cases("engines"):
        asked = {key: value for key, value in case.items() if key not in {"engines", "others", "counts"}}
        folder = tmp_path_factory.mktemp("case")
        checked = judged(asked | {"engine": PROFILES}, folder)
        for engine, outcome in by_profile(checked).items():
            found += [(case, engine, reason, folder) for reason in outcome.reasons if "cli repair" in reason.mend]
    return found


def left(case: Mapping[str, Any], engine: str, folder: Path) -> set[str]:
    """The features that the engine still stumbles over in the repaired adapter."""
    settings = Settings(cache_dir=folder / "cache")
    base = None if case.get("base") == "none" else open_base(str(base_directory(case, folder / "base")), settings)
    deployment = Deployment(max_lora_rank=case.get("deployment", {}).get("max_lora_rank"))
    found = repair_adapter(
        Request("", str(folder / "adapter")), RepairOptions(choose_engine(engine), base, deployment), settings
    )
    return {reason.feature for reason in found.after.reasons}


@pytest.mark.slow
def test_each_row_that_names_repair_is_mended_by_it_in_a_case(
    promises: list[tuple[Mapping[str, Any], str, Reason, Path]],
) -> None:
    shown = {(engine, reason.feature) for _, engine, reason, _ in promises}
    mended = {
        (engine, reason.feature)
        for case, engine, reason, folder in promises
        if reason.feature not in left(case, engine, folder)
    }

    assert shown - mended == set()
    assert len(mended) > 20
