"""A snapshot's tensors as SGLang's ``/load_lora_adapter_from_tensors`` takes them: a pickle of torch's tensors.

Nothing is unpickled here. SGLang reads the pickle with its ``SafeUnpickler`` (``srt/utils/common.py``, 0.5.23), which
takes torch's tensors and plain containers. Its own ``MultiprocessingSerializer.serialize`` names shared memory of this
machine, which no other machine has: the pickle has the bytes themselves.
"""

import hashlib
import pickle

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from lora_cli.core import parse
from lora_cli.core.adapter_files import CONFIG, WEIGHTS
from lora_cli.core.snapshot import Snapshot
from lora_cli.endpoint.servers import SentAdapter
from lora_cli.errors import Corrupt, FormatError, MachineError, Refused
from lora_cli.reading.companions import ADDED_TOKENS


def sent_adapter(snapshot: Snapshot) -> SentAdapter:
    """The adapter of a snapshot, read once and compared with the snapshot's digests.

    Raises:
        Refused: it has no safetensors file.
        Corrupt: a file is not the one that was validated.
        MachineError: a file cannot be read.
    """
    if WEIGHTS not in snapshot.files:
        raise Refused(
            f"only tensors of {WEIGHTS} can be sent, which this adapter does not have", hint="lora-cli repair writes it"
        )
    config = parse.json_value(_read(snapshot, CONFIG), CONFIG)
    added = parse.json_value(_read(snapshot, ADDED_TOKENS), ADDED_TOKENS) if ADDED_TOKENS in snapshot.files else None
    try:
        tensors = load(_read(snapshot, WEIGHTS))
    except SafetensorError as error:
        raise FormatError(f"{WEIGHTS}: {error}") from error
    checksums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    return SentAdapter(config, pickle.dumps(tensors), checksums, added)


def _read(snapshot: Snapshot, name: str) -> bytes:
    """A file of the snapshot, if its bytes are still those."""
    blob = snapshot.files[name]
    try:
        with (snapshot.directory / name).open("rb") as file:
            data = file.read(blob.size + 1)
    except OSError as error:
        raise MachineError(f"{snapshot.directory / name}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != blob.sha256:
        raise Corrupt(f"{snapshot.directory / name} was changed", hint="lora-cli cache verify")
    return data


def _checksum(tensor: torch.Tensor) -> str:
    """The sha256 of a tensor's bytes, as SGLang computes it (``srt/managers/tp_worker.py``)."""
    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data).hexdigest()
