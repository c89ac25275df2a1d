"""The real vLLM on what ``repair`` wrote: served as the adapter was trained, whichever engine it was repaired for."""

from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.engines import choose_engine
from lora_cli.errors import LoraCliError
from lora_cli.finding import Deployment
from lora_cli.judging.base_model import open_base
from lora_cli.refs.request import Request
from lora_cli.repair import RepairOptions, repair_adapter
from lora_cli.settings import Settings
from tests.real_engines import vllm_oracle
from tests.real_engines.bases import SERVED, save
from tests.real_engines.cases import MAX_LORA_RANK, Case, Cases, possible
from tests.real_engines.effects import Observed

pytestmark = pytest.mark.engines

ENGINES = ("vllm@0.32", "sglang")
KEPT = frozenset(
    {"an unknown bias", "an unknown initialisation", "replication in the config", "a task that nobody knows"}
)
"""What vLLM refuses and another engine does not look at: repaired for that one it stays so."""

ABOVE = frozenset({"a rank above it in a pattern"})
"""What has a larger rank than the server is started for, in every module once it is padded."""


def repaired(family: str, base: Path, folder: Path) -> list[Case]:
    """Every case of the family that was mended for one of the engines, as it was written."""
    cases, settings = Cases(SERVED[family], folder / "adapters"), Settings(cache_dir=folder / "cache")
    model = open_base(str(base), settings)
    found = []
    for engine in ENGINES:
        profile = choose_engine(engine)
        deployment = Deployment(max_lora_rank=MAX_LORA_RANK if profile.engine.default_rank else None)
        for name in possible(SERVED[family]):
            to = folder / "repaired" / engine / name
            try:
                made = repair_adapter(
                    Request("", str(cases[name].directory)),
                    RepairOptions(profile, model, deployment, to),
                    settings,
                )
            except LoraCliError:
                continue
            if made.directory is not None and made.changes and not made.flags:
                found.append(replace(cases[name], name=f"{engine} {name}", directory=Path(made.directory)))
    return found


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
def test_vllm_serves_what_was_repaired_as_it_was_trained(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save(SERVED[family], tmp_path / "base")
    adapters = [case for case in repaired(family, base, tmp_path) if case.name.partition(" ")[2] not in KEPT | ABOVE]

    seen = list(vllm_oracle.observed(base, adapters, tmp_path / "vllm.log"))

    wrong = [one for one in seen if one.observed is not Observed.OK]
    with capsys.disabled():
        print(f"\nvLLM 0.32 on {family}: {len(seen) - len(wrong)} of {len(seen)} repaired adapters served right")
        for one in wrong:
            print(f"  {one.name}: {one.observed.value} {one.said[:200]}")
    assert len(seen) > 30
    assert wrong == []
