"""What is repaired does what it was trained to: PEFT's answers, and what validate says for the engine it is for.

The adapters are those that the real engines are tried with (``tests/real_engines/cases.py``): what PEFT writes with
each of its options, and everything that the world breaks. For each and for each engine: either nothing is written, and
a reason is told, or PEFT answers with the copy as the adapter was made to answer, and the engine serves it right.
"""

import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.base.base_model import BaseModel
from lora_cli.engines import Profile, choose_engine
from lora_cli.errors import LoraCliError
from lora_cli.finding import Deployment, Outcome
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.repair import RepairOptions, RepairReport, repair_adapter
from lora_cli.settings import Settings
from tests.corpus.bases import Base
from tests.corpus.peft_judge import answers, logits, quiet
from tests.real_engines.bases import SERVED, save
from tests.real_engines.cases import Case, Cases, possible

pytestmark = pytest.mark.slow

ENGINES = ("sglang", "vllm@0.33", "peft", "vllm@0.32")
FAMILY = "llama"
MENDED = {
    "prefix missing": "peft",
    "prefix doubled": "vllm",
    "compiled": "vllm",
    "DDP": "vllm",
    "FSDP": "vllm",
    "state dict": "vllm",
    "another name in memory": "vllm",
    "rsLoRA": "sglang",
    "rsLoRA and patterns": "sglang",
    "patterns": "sglang",
    "ranks by pattern": "sglang",
    "alphas by pattern": "sglang",
    "a rank above it in a pattern": "sglang",
    "weights in a pickle": "vllm",
    "weights in a .pt": "peft",
    "weights sharded": "vllm",
    "a tower's prefix": "vllm@0.32",
}
"""What must be mended, and for which engine it is wrong: the repairs that the documentation promises."""


REFUSED_ALWAYS = ("another method", "rank pattern of true", "alpha pattern of null", "a rank pattern that is broken")
"""vLLM reads none of these fields and serves them right; repair reads a config as PEFT does, which refuses them."""

CLOSE = 1e-3
"""Of an adapter's effect on the logits: float32 adds up zeros in another order, and the effects of these are large."""


@functools.cache
def base_answers(base: Base) -> Any:
    with quiet():
        return logits(base.model())


def answers_right(case: Case, directory: Path) -> bool:
    """Whether PEFT answers with it as the adapter was made to answer."""
    plain = base_answers(case.base)
    try:
        answered = answers(case.base, directory)
    except Exception:
        return False
    effect = float((case.intended - plain).abs().max())
    return float((answered - case.intended).abs().max()) <= CLOSE * effect


class Bench:
    """A base, its cases, and what was made of them; the same for all tests of a family."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder, self.settings = folder, Settings(cache_dir=folder / "cache")
        base = save(SERVED[family], folder / "base")
        self.base: BaseModel = open_base(str(base), self.settings)
        self.tries, self.to = itertools.count(), folder
        self.names, self.cases = possible(SERVED[family]), Cases(SERVED[family], folder / "adapters")

    def deployment(self, profile: Profile) -> Deployment:
        return Deployment(max_lora_rank=512 if profile.engine.default_rank else None)

    def judged(self, directory: Path, engine: str) -> Result:
        profile = choose_engine(engine)
        terms = Terms(self.base, engines=(profile,), deployment=self.deployment(profile))
        return judge_one(Request("", str(directory)), terms, self.settings)

    def repaired(self, case: Case, engine: str) -> RepairReport | LoraCliError:
        profile, self.to = choose_engine(engine), self.folder / "repaired" / str(next(self.tries))
        wish = RepairOptions(profile, self.base, self.deployment(profile), self.to)
        try:
            return repair_adapter(Request("", str(case.directory)), wish, self.settings)
        except LoraCliError as error:
            return error


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Bench] = {}

    def of(family: str) -> Bench:
        if family not in made:
            made[family] = Bench(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


def check(bench: Bench, case: Case, engine: str) -> RepairReport | None:
    """Holds one repair to what it must be; what was written, None where nothing was."""
    found = bench.repaired(case, engine)
    before = bench.judged(case.directory, engine)
    was_right = before.error is None and not before.refused()
    if isinstance(found, LoraCliError) or found.refusals:
        told = found if isinstance(found, LoraCliError) else found.refusals[0]
        assert str(told.message)
        assert not was_right or case.name in REFUSED_ALWAYS, (case.name, engine, told)
        assert not bench.to.exists()
        return None
    assert found.directory is not None
    after = bench.judged(Path(found.directory), engine)
    (outcome,) = after.engines
    unchecked = outcome.outcome is Outcome.UNKNOWN and "shapes are not checked" in outcome.note
    assert outcome.outcome is Outcome.OK or unchecked, (case.name, engine)
    assert not after.refused(), (case.name, engine)
    assert found.proof is not None
    if case.intended is not None:
        # An engine may serve right what PEFT refuses or misreads: that is then not PEFT's to judge.
        right = answers_right(case, Path(found.directory))
        assert right or (was_right and not answers_right(case, case.directory)), (case.name, engine)
    return found


@pytest.mark.parametrize("name", MENDED)
def test_what_is_promised_is_mended(name: str, benches: Any) -> None:
    bench, engine = benches(FAMILY), MENDED[name]
    case = bench.cases[name]

    written = check(bench, case, engine)

    assert written is not None, name
    assert written.changes
    assert written.directory is not None
    assert answers_right(case, Path(written.directory))


@pytest.mark.parametrize(
    ("family", "engine"),
    [(family, engine) for family in SERVED for engine in (ENGINES if family == FAMILY else ("sglang", "vllm@0.33"))],
)
def test_every_adapter_is_repaired_or_refused_on_every_engine(family: str, engine: str, benches: Any) -> None:
    bench = benches(family)
    for name in bench.names:
        check(bench, bench.cases[name], engine)


NOT_FACTORS = ("DoRA", "PiSSA", "OLoRA", "biases on B", "a saved norm", "KaSA", "trained tokens", "layers twice")


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("name", NOT_FACTORS)
def test_what_cannot_be_said_in_factors_is_refused_with_what_can_be_done(name: str, engine: str, benches: Any) -> None:
    bench = benches(FAMILY)
    found = bench.repaired(bench.cases[name], engine)

    assert isinstance(found, RepairReport)
    assert found.refusals
    hints: Mapping[str, str] = {refusal.message: refusal.hint for refusal in found.refusals}
    assert all(hints.values())
    assert any("merge" in hint or "path_initial_model" in hint for hint in hints.values())
