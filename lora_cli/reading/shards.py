"""An adapter whose weights are in shards, as one: what no engine but SGLang reads, and what can be joined again."""

import re
from collections.abc import Iterator
from dataclasses import replace

from lora_cli.core.adapter import Adapter, pair_up
from lora_cli.core.keys import parse_keys
from lora_cli.core.safetensors import MOST_HEADER, MOST_TENSORS, TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.reading.headers import read_header
from lora_cli.reading.pickled import read_pickled
from lora_cli.sources import Source

SHARD = re.compile(r"adapter_model-(\d{5})-of-(\d{5})\.(safetensors|bin)", re.ASCII)
MOST = 100
"""Shards of one adapter: transformers begins a new one every 5 GB."""


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
    if len(totals) > 1 or len(found) > MOST or numbers != list(range(1, min(totals) + 1)):
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
    keys = parse_keys(tensors)
    paths = tuple(file.path for file in files)
    return replace(
        adapter, weight_files=paths, tensors=tensors, keys=keys, pairs=pair_up(tensors, keys), foreign=None, unread=""
    )


def _tensors(
    source: Source, revision: Revision, file: RemoteFile, most_header: int
) -> Iterator[tuple[str, TensorInfo]]:
    if file.path.endswith(".bin"):
        yield from read_pickled(source, revision, file).items()
    else:
        yield from read_header(source, revision, file, most_header).tensors.items()
