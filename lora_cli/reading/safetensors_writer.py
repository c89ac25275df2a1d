"""Writing through the safetensors library: its names of dtypes, and its errors as the operating system's."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from safetensors import SafetensorError

LIBRARY_DTYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""What ``safetensors.TensorSpec`` calls the dtypes whose elements fill whole bytes."""


@contextmanager
def write_errors() -> Iterator[None]:
    """Around ``serialize_file`` and ``save_file``: a disk that is full, or a folder that is read-only, keeps its errno.

    Raises:
        OSError: what the library says of a write that failed.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error
