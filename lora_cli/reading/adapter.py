"""An adapter, read from wherever its source has it: the config and the header's byte ranges, never the weights.

Its weights may be in shards, which no engine but SGLang reads, and which can be joined again.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from lora_cli.core.adapter import Adapter, LoraPair, pair_up
from lora_cli.core.adapter_files import CONFIG, PICKLED, WEIGHTS
from lora_cli.core.keys import Key, parse_keys
from lora_cli.core.lora_config import CONFIG_CAP, LoraConfig, parse_config
from lora_cli.core.safetensors import MOST_HEADER, MOST_TENSORS, TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.reading.byte_ranges import FIRST_READ, check_stand_in, read_beginning, read_header
from lora_cli.reading.foreign import recognise
from lora_cli.sources import Source

_kept_config = lru_cache(maxsize=16)(parse_config)
SHARD = re.compile(r"adapter_model-(\d{5})-of-(\d{5})\.(safetensors|bin)", re.ASCII)
MOST_SHARDS = 100
"""Shards of one adapter: transformers begins a new one every 5 GB."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What the weights of an adapter told: tensors by name, the ``file`` they stand in, or what is wrong with it."""

    file: RemoteFile | None = None
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    error: FormatError | None = None
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """An adapter, read, and where its bytes are."""

    source: Source
    revision: Revision
    adapter: Adapter


def read_at_once(threads: int, *parts: Callable[[], Any]) -> list[Any]:
    """What each of ``parts`` gives, in their order, called in up to ``threads`` of them at once."""
    if threads == 1:
        return [part() for part in parts]
    from lora_cli.daemon_threads import map_in_threads

    return map_in_threads(lambda part: part(), parts, threads)


def read_adapter(
    source: Source, revision: Revision, name: str, most_header: int = MOST_HEADER, *, threads: int = 1
) -> Adapter:
    """Read config and header of the adapter at ``revision``. ``name`` is how the user called it.

    A header of over ``most_header`` bytes is not read. With several ``threads`` both are read at once.

    What is wrong inside the adapter raises nothing: it stands in ``config_error`` and ``weights_error``.

    Raises:
        LoraCliError: what the source raises (no access, network, the file changed while it was read).
    """
    (config, config_error), weights = read_at_once(
        threads, lambda: _read_config(source, revision), lambda: _read_weights(source, revision, most_header)
    )
    keys, pairs = _taken_apart(weights.tensors)
    return Adapter(
        name=name,
        files=revision.files,
        weight_files=(weights.file.path,) if weights.file is not None else (),
        config=config,
        config_error=config_error,
        tensors=weights.tensors,
        weights_error=weights.error,
        keys=keys,
        pairs=pairs,
        metadata=weights.metadata,
        foreign=recognise(source, revision, config, weights_of(revision), keys, pairs),
        unread=weights.unread,
    )


def _taken_apart(tensors: Mapping[str, TensorInfo]) -> tuple[Mapping[str, Key], Mapping[str, LoraPair]]:
    """Each name, parsed, and the pairs that they make."""
    keys = parse_keys(tensors)
    return keys, pair_up(tensors, keys)


def _read_config(source: Source, revision: Revision) -> tuple[LoraConfig | None, FormatError | None]:
    file = revision.file(CONFIG)
    if file is None:
        return None, None
    try:
        data = read_beginning(source, revision, file, CONFIG_CAP + 1)  # so that parse_config sees that there is more
        check_stand_in(data, file)
        return (_kept_config if len(data) <= FIRST_READ else parse_config)(data, file.path), None
    except FormatError as error:
        return None, error


def weights_of(revision: Revision) -> RemoteFile | None:
    """The file that PEFT would load the weights from."""
    return next((file for file in map(revision.file, (WEIGHTS, *PICKLED)) if file is not None), None)


def _read_weights(source: Source, revision: Revision, most_header: int) -> Weights:
    file = weights_of(revision)
    if file is None:
        return Weights()
    if file.path != WEIGHTS:
        return _read_pickled(source, revision, file)
    try:
        header = read_header(source, revision, file, most_header)
    except FormatError as error:
        return Weights(file, error=error)
    return Weights(file, header.tensors, header.metadata)


def _read_pickled(source: Source, revision: Revision, file: RemoteFile) -> Weights:
    from lora_cli.reading.pickled import read_pickled

    if file.size is None and not file.defect:
        return Weights(unread=f"{file.path}: its origin does not say how long it is, so that it is not read by ranges")
    try:
        return Weights(file, read_pickled(source, revision, file))
    except FormatError as error:
        return Weights(file, error=error)


def shards_of(revision: Revision) -> list[RemoteFile]:
    """The shards of the weights in their order, those of safetensors where there are both kinds; else none.

    Raises:
        FormatError: some are missing, or they are of two sets.
    """
    found = [(match, file) for file in revision.files if (match := SHARD.fullmatch(file.path))]
    kind = "safetensors" if any(match[3] == "safetensors" for match, _ in found) else "bin"
    found = sorted(((match, file) for match, file in found if match[3] == kind), key=lambda one: one[0][1])
    if not found:
        return []
    totals = {int(match[2]) for match, _ in found}
    numbers = [int(match[1]) for match, _ in found]
    if len(totals) > 1 or len(found) > MOST_SHARDS or numbers != list(range(1, min(totals) + 1)):
        raise FormatError(
            f"of {max(totals)} shards there are {len(found)}", where=found[0][1].path, hint="fetch or copy all of them"
        )
    return [file for _, file in found]


def joined(source: Source, revision: Revision, adapter: Adapter, most_header: int = MOST_HEADER) -> Adapter:
    """``adapter`` with the tensors of all its shards, where its weights are in shards; else as it is.

    The header of each has at most ``most_header`` bytes.

    Raises:
        FormatError: a shard is missing or malformed, or two hold one tensor.
        LoraCliError: what the source raises.
    """
    files = shards_of(revision) if not adapter.weight_files else []
    if not files:
        return adapter
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, tensor in _tensors(source, revision, file, most_header):
            if name in tensors:
                raise FormatError(f"{name} is in {tensors[name].file} too", where=file.path)
            tensors[name] = tensor
        if len(tensors) > MOST_TENSORS:
            raise FormatError(f"the shards have over {MOST_TENSORS} tensors, more than any adapter", where=file.path)
    keys, pairs = _taken_apart(tensors)
    paths = tuple(file.path for file in files)
    return replace(adapter, weight_files=paths, tensors=tensors, keys=keys, pairs=pairs, foreign=None, unread="")


def _tensors(
    source: Source, revision: Revision, file: RemoteFile, most_header: int
) -> Iterator[tuple[str, TensorInfo]]:
    if file.path.endswith(".bin"):
        from lora_cli.reading.pickled import read_pickled

        yield from read_pickled(source, revision, file).items()
    else:
        yield from read_header(source, revision, file, most_header).tensors.items()
