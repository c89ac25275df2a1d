"""What is repaired does what it was trained to: PEFT's answers, and what validate says for the engine it is for.

The adapters are those that the real engines are tried with (``tests/real_engines/cases.py``): what PEFT writes with
each of its options, and everything that the world breaks. For each and for each engine: either nothing is written, and
a reason is told, or PEFT answers with the copy as the adapter was made to answer, and the engine serves it right.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.engines import choose_engine
from lora_cli.errors import LoraCliError
from lora_cli.finding import Deployment, Outcome
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.repair import RepairOptions, RepairReport, repair_adapter
from lora_cli.settings import Settings
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


NOT_FACTORS = ("DoRA", "PiSSA", "OLoRA", "biases on B", "a saved norm", "KaSA", "trained tokens", "layers twice")
"""What factors cannot say: refused, with what can be done."""
REFUSED_ALWAYS = ("another method", "rank pattern of true", "alpha pattern of null", "a rank pattern that is broken")
"""vLLM reads none of these fields and serves them right; repair reads a config as PEFT does, which refuses them."""

CLOSE = 1e-3
"""Of an adapter's effect on the logits: float32 adds up zeros in another order, and the effects of these are large."""


def answers_right(case: Case, directory: Path) -> bool:
    """Whether PEFT answers with it as the adapter was made to answer."""
    with quiet():
        plain = logits(case.base.model())
    try:
        answered = answers(case.base, directory)
    except Exception:
        return False
    effect = float((case.intended - plain).abs().max())
    return float((answered - case.intended).abs().max()) <= CLOSE * effect


class Bench:
    """A base, its adapters, and what was made of them; the same for all tests of a family."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder, self.settings, self.tries = folder, Settings(cache_dir=folder / "cache"), itertools.count()
        self.base = open_base(str(save(SERVED[family], folder / "base")), self.settings)
        self.names, self.cases = possible(SERVED[family]), Cases(SERVED[family], folder / "adapters")

    def check(self, name: str, engine: str) -> RepairReport | None:
        """Holds one repair to what it must be; what was written, None where nothing was."""
        case, profile, to = self.cases[name], choose_engine(engine), self.folder / "repaired" / str(next(self.tries))
        deployment = Deployment(max_lora_rank=512 if profile.engine.default_rank else None)

        def judged(directory: Path) -> Result:
            terms = Terms(self.base, engines=(profile,), deployment=deployment)
            return judge_one(Request("", str(directory)), terms, self.settings)

        before = judged(case.directory)
        was_right = before.error is None and not before.refused()
        options = RepairOptions(profile, self.base, deployment, to)
        try:
            found = repair_adapter(Request("", str(case.directory)), options, self.settings)
            told = [(one.message, one.hint or "") for one in found.refusals]
        except LoraCliError as error:
            told = [(error.message, error.hint)]
        if told:
            assert not was_right or name in REFUSED_ALWAYS, (name, engine, told)
            hints = [hint for _, hint in told]
            assert name not in NOT_FACTORS or any("merge" in one or "path_initial_model" in one for one in hints)
            assert not to.exists()
            return None
        after = judged(to)
        (outcome,) = after.engines
        unchecked = outcome.outcome is Outcome.UNKNOWN and "shapes are not checked" in outcome.note
        assert outcome.outcome is Outcome.OK or unchecked, (name, engine)
        assert not after.refused(), (name, engine)
        assert found.proof is not None
        if case.intended is not None:
            # An engine may serve right what PEFT refuses or misreads: that is then not PEFT's to judge.
            assert answers_right(case, to) or (was_right and not answers_right(case, case.directory)), (name, engine)
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    return functools.cache(lambda family: Bench(family, tmp_path_factory.mktemp(family)))


@pytest.mark.parametrize("name", MENDED)
def test_what_is_promised_is_mended(name: str, bench: Callable[[str], Bench]) -> None:
    written = bench(FAMILY).check(name, MENDED[name])
    assert written is not None
    assert written.changes


@pytest.mark.parametrize(
    ("family", "engine"),
    [(family, engine) for family in SERVED for engine in (ENGINES if family == FAMILY else ("sglang", "vllm@0.33"))],
)
def test_every_adapter_is_repaired_or_refused_on_every_engine(
    family: str, engine: str, bench: Callable[[str], Bench]
) -> None:
    written = {name for name in bench(family).names if bench(family).check(name, engine)}
    assert written
    assert engine == "peft" or written.isdisjoint(NOT_FACTORS)
