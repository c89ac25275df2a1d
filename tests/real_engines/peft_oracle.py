"""What the installed PEFT makes of each adapter of the corpus."""

from collections.abc import Iterator, Sequence
from typing import Any

from tests.corpus.peft_judge import logits, quiet
from tests.real_engines.cases import Case
from tests.real_engines.effects import Observed, Seen, log_softmax, served


def observed(corpus: Sequence[Case]) -> Iterator[Seen]:
    """Every case on a fresh model of its base."""
    plain = _answers(corpus[0].base.model())
    for case in corpus:
        yield _tried(case, plain)


def _tried(case: Case, plain: Any) -> Seen:
    from peft import PeftModel

    with quiet():
        try:
            model = PeftModel.from_pretrained(case.base.model(), str(case.directory)).eval()
        except Exception as error:
            return Seen(case.name, Observed.REJECTS, f"{type(error).__name__}: {error}"[:600])
        try:
            answered = _answers(model)
        except Exception as error:
            return Seen(case.name, Observed.CRASHES, f"{type(error).__name__}: {error}"[:600])
    meant = None if case.intended is None else log_softmax(case.intended.numpy())
    return served(case.name, answered, meant, plain)


def _answers(model: Any) -> Any:
    """Log-probabilities, ``[sequences, tokens, vocab]``."""
    with quiet():
        return log_softmax(logits(model).numpy())
