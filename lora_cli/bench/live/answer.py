"""What came of one request, and of a whole load."""

from dataclasses import dataclass, field
from math import inf


@dataclass(frozen=True, slots=True)
class Answer:
    """One request to the end. Times are seconds from the start of the run.

    It was to be sent at ``scheduled_s``; the generator was awake for it at ``woke_s`` and sent it at ``sent_s`` (later
    only where ``--max-concurrency`` held it back). ``chunks_s`` are when each piece of the answer came. ``tier`` and
    ``load_ms`` are what the server says of the adapter, "" and None where it does not. ``error`` is "" for a whole
    answer.
    """

    name: str
    scheduled_s: float
    woke_s: float
    sent_s: float
    chunks_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    tier: str = ""
    load_ms: float | None = None
    error: str = ""

    @property
    def first_s(self) -> float:
        """When its first piece came; never: infinite."""
        return self.chunks_s[0] if self.chunks_s else inf

    @property
    def last_s(self) -> float:
        """When its last piece came, or it was given up (as far as is known)."""
        return self.chunks_s[-1] if self.chunks_s else self.sent_s

    @property
    def ttft_s(self) -> float:
        """From its scheduled time to its first piece; infinite for a failure."""
        return inf if self.error else self.first_s - self.scheduled_s

    @property
    def e2el_s(self) -> float:
        """From its scheduled time to its last piece; infinite for a failure."""
        return inf if self.error else self.last_s - self.scheduled_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first; None where there is no second one, and for a failure."""
        if self.error or self.output_tokens <= 1:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        """The gaps between its pieces; none for a failure."""
        if self.error:
            return []
        return [later - earlier for earlier, later in zip(self.chunks_s, self.chunks_s[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Course:
    """What came of a load so far: filled while it runs, so that an interrupt leaves what there is."""

    answers: list[Answer] = field(default_factory=list)
    probes: list[Answer] = field(default_factory=list)
