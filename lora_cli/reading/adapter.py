"""An adapter, read from wherever its source has it: the config and the header's byte ranges, never the weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lora_cli.core.adapter import Adapter, LoraPair, pair_up
from lora_cli.core.keys import Key, parse_keys
from lora_cli.core.lora_config import CONFIG_CAP, CONFIG_FILE, LoraConfig, parse_config
from lora_cli.core.safetensors import MOST_HEADER, TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.reading.foreign import recognise
from lora_cli.reading.headers import FIRST_READ, check_stand_in, read_header
from lora_cli.reading.ranges import read_range
from lora_cli.sources import Source

WEIGHTS_FILE = "adapter_model.safetensors"
_kept_config = lru_cache(maxsize=16)(parse_config)
PICKLED_FILES = ("adapter_model.bin", "adapter_model.pt")


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


def read_adapter(
    source: Source, revision: Revision, name: str, most_header: int = MOST_HEADER, *, threads: int = 1
) -> Adapter:
    """Read config and header of the adapter at ``revision``. ``name`` is how the user called it.

    A header of over ``most_header`` bytes is not read. With several ``threads`` both are read at once.

    What is wrong inside the adapter raises nothing: it stands in ``config_error`` and ``weights_error``.

    Raises:
        LoraCliError: what the source raises (no access, network, the file changed while it was read).
    """
    parts: tuple[Callable[[], Any], ...] = (
        lambda: _read_config(source, revision),
        lambda: _read_weights(source, revision, most_header),
    )
    if threads == 1:
        (config, config_error), weights = (part() for part in parts)
    else:
        from lora_cli.sources.daemon_threads import map_in_threads

        (config, config_error), weights = map_in_threads(lambda part: part(), parts, threads)
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
    file = revision.file(CONFIG_FILE)
    if file is None:
        return None, None
    if file.defect:
        return None, FormatError(file.defect, where=file.path)
    # One byte more than the cap, so that parse_config sees that there is more.
    stop = CONFIG_CAP + 1 if file.size is None else min(CONFIG_CAP + 1, file.size)
    try:
        data = read_range(source, revision, file, 0, stop)
        check_stand_in(data, file)
        return (_kept_config if len(data) <= FIRST_READ else parse_config)(data, file.path), None
    except FormatError as error:
        return None, error


def weights_of(revision: Revision) -> RemoteFile | None:
    """The file that PEFT would load the weights from."""
    return next((file for file in map(revision.file, (WEIGHTS_FILE, *PICKLED_FILES)) if file is not None), None)


def _read_weights(source: Source, revision: Revision, most_header: int) -> Weights:
    file = weights_of(revision)
    if file is None:
        return Weights()
    if file.path != WEIGHTS_FILE:
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
