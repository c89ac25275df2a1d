"""The header of a safetensors file in which nothing is odd, as in nearly every one: read by the C scanner of ``json``.

What is odd in any way is left to ``core.safetensors``, which knows what to say of it.
"""

import json
from typing import Any

from lora_cli.core.tensor_entry import usual_tensor
from lora_cli.core.tensor_info import TensorInfo

LONGEST = 1 << 20
"""Characters of a header that is read so: with it, what hostile JSON makes of memory stays small."""

_OBJECTS = json.JSONDecoder(object_pairs_hook=tuple)
"""Objects become tuples of pairs, so that none is mistaken for a list, and no key that stands twice is lost."""


def read_plain(text: str, offset: int, file: str) -> tuple[dict[str, TensorInfo], dict[str, str]] | None:
    """Tensors by name, and metadata; None where the header is odd. ``offset`` is where the tensors' bytes begin."""
    if len(text) > LONGEST or "\\u" in text or "-0" in text:  # half a surrogate pair, perhaps; a negative zero
        return None
    try:
        members = _OBJECTS.decode(text)
        found, metadata = _tensors(members, offset, file)
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    named = sum(name != "__metadata__" for name, _ in members)
    return (found, metadata) if len(found) == named and len(members) - named <= 1 else None


def _tensors(members: Any, offset: int, file: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Raises one of Python's own errors where something is odd."""
    found: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for name, entry in members:
        if name == "__metadata__":
            metadata = _texts(entry)
            continue
        if type(entry) is not tuple or len(entry) != 3:
            raise ValueError
        found[name] = usual_tensor(name, dict(entry), offset, file)
    return found, metadata


def _texts(entry: Any) -> dict[str, str]:
    metadata = dict(entry)
    if (
        type(entry) is not tuple
        or len(metadata) != len(entry)
        or not all(type(one) is str for one in metadata.values())
    ):
        raise ValueError
    return metadata
