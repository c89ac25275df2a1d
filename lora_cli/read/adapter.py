"""An adapter, read from wherever its source has it: the config and the header's byte ranges, never the weights."""

from collections.abc import Mapping

from lora_cli.core.adapter import Adapter, pair_up
from lora_cli.core.keys import parse_key
from lora_cli.core.lora_config import CONFIG_CAP, CONFIG_FILE, LoraConfig, parse_config
from lora_cli.core.safetensors import Header, header_length, parse_header
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.sources import Source

WEIGHTS_FILE = "adapter_model.safetensors"
INDEX_FILE = "adapter_model.safetensors.index.json"
PICKLED_FILES = ("adapter_model.bin", "adapter_model.pt")

FIRST_READ = 1 << 17
"""Bytes of the first range of a weights file: the whole header of nearly every adapter, in one request."""

EMPTY = Header({}, {})


def read_adapter(source: Source, revision: Revision, name: str) -> Adapter:
    """Read config and header of the adapter at ``revision``. ``name`` is how the user called it.

    What is wrong inside the adapter raises nothing: it stands in ``config_error`` and ``weights_error``.

    Raises:
        LoraCliError: what the source raises (no access, network, the file changed while it was read).
    """
    config, config_error = _read_config(source, revision)
    header, weights_error = _read_weights(source, revision)
    keys = {tensor: parse_key(tensor) for tensor in header.tensors}
    return Adapter(
        name=name,
        files=revision.files,
        weight_files=(WEIGHTS_FILE,) if revision.file(WEIGHTS_FILE) else (),
        config=config,
        config_error=config_error,
        tensors=header.tensors,
        weights_error=weights_error,
        keys=keys,
        pairs=pair_up(header.tensors, keys),
        metadata=header.metadata,
    )


def read_header(source: Source, revision: Revision, file: RemoteFile) -> Header:
    """The header of one safetensors file, in one range for a usual one and two for a large one.

    Raises:
        FormatError: the file cannot be read as plain bytes (``defect``), or its header is malformed.
        LoraCliError: what the source raises.
    """
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    stop = FIRST_READ if file.size is None else min(FIRST_READ, file.size)
    first = read_range(source, revision, file, 0, stop)
    length = header_length(first[:8], file.size, file.path)
    header = first[8 : 8 + length]
    if len(header) < length:
        header += read_range(source, revision, file, 8 + len(header), 8 + length)
    if len(header) < length:
        raise FormatError(f"truncated: the header has {length} bytes, and {len(header)} are there", where=file.path)
    return parse_header(header, file.size, file.path)


def read_range(source: Source, revision: Revision, file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop``, or as many of them as the file has."""
    read = bytearray()
    if stop <= start:
        return b""
    for chunk in source.read(revision, file, start, stop):
        read += chunk
        if len(read) >= stop - start:
            break
    return bytes(read[: stop - start])


def _read_config(source: Source, revision: Revision) -> tuple[LoraConfig | None, FormatError | None]:
    file = revision.file(CONFIG_FILE)
    if file is None:
        return None, None
    if file.defect:
        return None, FormatError(file.defect, where=file.path)
    # One byte more than the cap, so that parse_config sees that there is more.
    stop = CONFIG_CAP + 1 if file.size is None else min(CONFIG_CAP + 1, file.size)
    try:
        return parse_config(read_range(source, revision, file, 0, stop), file.path), None
    except FormatError as error:
        return None, error


def _read_weights(source: Source, revision: Revision) -> tuple[Header, FormatError | None]:
    file = revision.file(WEIGHTS_FILE)
    if file is None:
        return EMPTY, _other_weights({one.path: one for one in revision.files})
    try:
        return read_header(source, revision, file), None
    except FormatError as error:
        return EMPTY, error


def _other_weights(files: Mapping[str, RemoteFile]) -> FormatError | None:
    """Why the weights that are there instead of ``WEIGHTS_FILE`` are not read; None when there are none."""
    if INDEX_FILE in files:
        return FormatError(
            f"the weights are sharded; PEFT and vLLM read only {WEIGHTS_FILE}",
            where=INDEX_FILE,
            hint=f"load the shards with safetensors and save them as one {WEIGHTS_FILE}",
        )
    for pickled in PICKLED_FILES:
        if pickled in files:
            return FormatError(
                "pickled weights can run code when they are opened, and are not read",
                where=pickled,
                hint="load the adapter with PEFT where you trust it, and save it again as safetensors",
            )
    return None
