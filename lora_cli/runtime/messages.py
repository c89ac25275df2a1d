"""Messages between the parent and its child processes: requests, events and answers. Torch-free."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_cli.adapter.adapter import Adapter
from lora_cli.errors import LoraCliError
from lora_cli.json_schema import Count

MAX_BATCH_SIZE = 8
"""How many rows are generated at once."""

TierName = Literal["gpu", "cpu", "disk"]


@dataclass(frozen=True, slots=True)
class LoraRequest:
    """A validated adapter on this disk. ``digest`` is its snapshot's; ``pinned`` protects it from eviction."""

    name: str
    directory: Path
    adapter: Adapter
    digest: str = ""
    pinned: bool = False

    @property
    def key(self) -> str:
        """Its key in the tiers: two names of one snapshot share a slot."""
        return self.digest or str(self.directory)


@dataclass(frozen=True, slots=True)
class OpaquePickle:
    """A pickled value in a process that must not unpickle it; after ``hops`` messages it is the value again."""

    data: bytes
    hops: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return (OpaquePickle, (self.data, self.hops - 1)) if self.hops > 1 else (pickle.loads, (self.data,))


@dataclass(frozen=True, slots=True)
class Ready:
    """The warm process is ready. ``notes`` are messages for the user."""

    device: str
    dtype: str
    weights: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of ``Probe``: the tier where the adapter was found, and milliseconds.

    ``evicted`` counts evictions by tier. ``forward_ms`` is a small batch through every module of the adapter.
    """

    tier: TierName
    load_ms: float
    forward_ms: float
    evicted: Mapping[TierName, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """Read an adapter, put it into a slot and prove it; answered with a ``LoadReport``."""

    lora: LoraRequest


@dataclass(frozen=True, slots=True)
class Probe:
    """Put an adapter into a slot and run a small batch; answered with ``ProbeResult``."""

    lora: LoraRequest


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Read an adapter into memory, and into a slot if one is free; answered with whether it was read."""

    lora: LoraRequest


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove a key from the tiers, unless it is in use; answered with whether it is gone."""

    key: str


@dataclass(frozen=True, slots=True)
class QueryTiers:
    """The contents of the tiers; answered with ``TierContents``."""


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
    """The contents of the tiers: keys, the first to be evicted first, and counters."""

    gpu: tuple[str, ...]
    cpu: tuple[str, ...]
    tiers: Mapping[str, TierStatus]


@dataclass(frozen=True, slots=True)
class CompareGreedy:
    """Complete a prompt with the base and with the adapter; answered with ``Answers``."""

    lora: LoraRequest
    prompt: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the request has begun."""

    name: str


@dataclass(frozen=True, slots=True)
class Logged:
    """A log record of the child, for the parent's handlers."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt (text or token ids) for one adapter (``lora`` None: the base), completed greedily.

    With ``logprobs`` each token has its log-probability. The output ends after ``max_tokens``, before one of the
    ``stop`` strings, and, unless ``ignore_eos``, at an end token.
    """

    lora: LoraRequest | None
    prompt: str | tuple[int, ...]
    max_tokens: int
    logprobs: bool = False
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Generate:
    """Complete rows beside those of other requests; a ``RowEvent`` at each step, then answered with their number."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class RowScheduled:
    """A row's adapter is in a slot: found in ``tier`` ("" for the base), after ``load_ms``."""

    row: int
    tier: str
    load_ms: float
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token as text, and its natural log-probability."""

    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """New output of a row: ``ids``, and ``text``, which may lag behind its tokens.

    ``finish`` is "" while more comes, else ``stop`` or ``length``.
    """

    row: int
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str = ""


@dataclass(frozen=True, slots=True)
class RowFailed:
    """A row has failed; the others continue."""

    row: int
    error: LoraCliError


RowEvent = RowScheduled | OutputDelta | RowFailed
