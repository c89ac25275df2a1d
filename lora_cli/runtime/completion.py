"""What the parent asks of a whole model, and what it hears while the answers grow. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_cli.runtime.plan import Failure, Job


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt, text or token ids, for one adapter (``job`` None: the base), answered greedily.

    ``logprobs`` is how many alternatives are told of each token (None: no log-probabilities at all). An answer ends
    after ``max_tokens``, before one of the texts ``stop``, and, unless ``ignore_eos``, at the model's own end.
    """

    job: Job | None
    prompt: str | tuple[int, ...]
    max_tokens: int
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Complete:
    """Answer a static batch of rows: with ``Placed``, ``Piece`` and ``Unanswered``, then ``Completed``."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A row's adapter is in its slot: found in ``tier`` ("" for the base), after ``load_ms``."""

    row: int
    tier: str
    load_ms: float
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token as text, its natural log-probability, and those of the most likely tokens at its place."""

    token: str
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """An answer has grown: by ``ids`` and by ``text``, which may come later than its tokens.

    ``finish`` is "" while more comes, else ``stop`` or ``length``.
    """

    row: int
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str = ""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A row gets no answer, or no more of it; the others do."""

    row: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Completed:
    """The batch is done. ``evicted`` counts who left the slots for it."""

    rows: int
    evicted: int = 0


Heard = Placed | Piece | Unanswered
