"""The installed PEFT beside ``validate --engine peft``: run by ``make test-engines``."""

from pathlib import Path
from typing import Any

import pytest

from tests.corpus.peft_judge import logits, quiet
from tests.real_engines.agreement import Observed, Seen, disagreements, log_softmax, predictions, served
from tests.real_engines.bases import SERVED, save
from tests.real_engines.cases import Case, given

pytestmark = pytest.mark.engines

UNCHECKED = frozenset(
    {
        *("BD-LoRA", "BD-LoRA in the config", "QALoRA in the config"),
        *("blocks of nothing", "layers twice", "replication in the config"),
    }
)
"""Variants that no engine serves, and whose shapes are not checked: what PEFT does with them is not said."""


@pytest.mark.parametrize("family", SERVED)
def test_validate_says_what_peft_does(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save(SERVED[family], tmp_path / "base")
    adapters = given(SERVED[family], tmp_path / "adapters")
    plain = answers(SERVED[family].model())

    seen = [observed(case, plain) for case in adapters]
    differ = disagreements(predictions("peft", base, adapters, tmp_path / "verdicts.json"), seen)

    with capsys.disabled():
        print(f"\nPEFT on {family}: {len(seen) - len(differ)} of {len(seen)} agree", *differ.values(), sep="\n  ")
    assert differ.keys() <= UNCHECKED


def observed(case: Case, plain: Any) -> Seen:
    """What PEFT makes of it on a fresh model; ``plain`` is what the base answers."""
    from peft import PeftModel

    with quiet():
        outcome = Observed.REJECTS
        try:
            model = PeftModel.from_pretrained(case.base.model(), str(case.directory)).eval()
            outcome = Observed.CRASHES
            answered = answers(model)
        except Exception as error:
            return Seen(case.name, outcome, f"{type(error).__name__}: {error}"[:600])
    return served(case.name, answered, None if case.intended is None else log_softmax(case.intended.numpy()), plain)


def answers(model: Any) -> Any:
    """Log-probabilities, ``[sequences, tokens, vocab]``."""
    with quiet():
        return log_softmax(logits(model).numpy())
