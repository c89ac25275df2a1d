"""Messages between the parent and its child processes: requests and answers. It imports no torch."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_cli.core.adapter import Adapter
from lora_cli.core.json_schema import Count
from lora_cli.errors import LoraCliError

TierName = Literal["gpu", "cpu", "disk"]


@dataclass(frozen=True, slots=True)
class LoraRequest:
    """One adapter, checked and on this disk. ``digest`` is its snapshot's; ``pinned`` keeps it on the device."""

    name: str
    directory: Path
    adapter: Adapter
    digest: str = ""
    pinned: bool = False

    @property
    def key(self) -> str:
        """What the tiers know it by: two names for the same bytes share a place."""
        return self.digest or str(self.directory)


@dataclass(frozen=True, slots=True)
class OpaquePickle:
    """A value, pickled, in a process that must not open it. Sent on ``hops`` times, it is the value there."""

    data: bytes
    hops: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return (OpaquePickle, (self.data, self.hops - 1)) if self.hops > 1 else (pickle.loads, (self.data,))


@dataclass(frozen=True, slots=True)
class Ready:
    """The warm process is ready. ``notes`` are what a user should know (why weights are synthetic, say)."""

    device: str
    dtype: str
    weights: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One request's adapter, in its slot: where it was found, and what it took in milliseconds.

    ``evicted`` counts what had to leave, by tier. ``forward_ms`` is a small batch through every module of the adapter.
    """

    tier: TierName
    load_ms: float
    forward_ms: float
    evicted: Mapping[TierName, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """Read, put and prove; answered with a ``LoadReport``."""

    lora: LoraRequest


@dataclass(frozen=True, slots=True)
class Probe:
    """Have it in a slot and run a small batch; answered with ``ProbeResult``."""

    lora: LoraRequest


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Have it in memory, and in a slot if one is free, ahead of its requests; answered with whether it was read."""

    lora: LoraRequest


@dataclass(frozen=True, slots=True)
class Drop:
    """Release what the tiers hold under this key, unless it is in use; answered with whether it is gone."""

    key: str


@dataclass(frozen=True, slots=True)
class QueryTiers:
    """Say what the tiers hold, ``with_history`` also what they know of the past; answered by ``TierContents``."""

    with_history: bool = False


@dataclass(frozen=True, slots=True)
class TierStatus:
    """What is in the slots of the device, or in memory."""

    adapters: Count
    most: Count
    bytes: Count
    max_bytes: Count | None
    hits: Count
    loads: Count
    evictions: Count


@dataclass(frozen=True, slots=True)
class TierContents:
    """What the tiers hold now: keys, in the order in which they came, and the numbers; ``history`` as in ``Plan``."""

    gpu: tuple[str, ...]
    cpu: tuple[str, ...]
    tiers: Mapping[str, TierStatus]
    history: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompareGreedy:
    """Answer a prompt without and with it, at most ``max_tokens`` tokens; answered with ``Answers``."""

    lora: LoraRequest
    prompt: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Stage:
    """The child began a stage of the request at hand."""

    name: str


@dataclass(frozen=True, slots=True)
class Logged:
    """What the child says through ``logging``, for the parent's own handlers."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a chat, each a role and its text: a prompt by the base's own chat template."""

    device_lock: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt, text, a chat or token ids, for one adapter (``lora`` None: the base), answered greedily.

    ``logprobs`` is how many alternatives are returned for each token (None: no log-probabilities at all). An answer
    ends after ``max_tokens``, before one of the texts ``stop``, and, unless ``ignore_eos``, at the model's own end.
    """

    lora: LoraRequest | None
    prompt: str | Conversation | tuple[int, ...]
    max_tokens: int
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer a static batch of rows: with ``RowScheduled``, ``OutputDelta`` and ``RowFailed``, then their number."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class RowScheduled:
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
class OutputDelta:
    """An answer has grown: by ``ids`` and by ``text``, which may come later than its tokens.

    ``finish`` is "" while more comes, else ``stop`` or ``length``.
    """

    row: int
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str = ""


@dataclass(frozen=True, slots=True)
class RowFailed:
    """A row gets no answer, or no more of it; the others do."""

    row: int
    error: LoraCliError


RowEvent = RowScheduled | OutputDelta | RowFailed
