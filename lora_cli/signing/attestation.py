"""Signed in-toto statements, one DSSE envelope a line (``.intoto.jsonl``), with securesystemslib.

Formats: https://github.com/in-toto/attestation, https://github.com/secure-systems-lab/dsse.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, Key, SSlibKey  # type: ignore[attr-defined]

from lora_cli.core.log import logger
from lora_cli.errors import UsageError
from lora_cli.signing.sign import SigningKey, private_key
from lora_cli.signing.trusted_files import read_trusted

log = logger(__name__)

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


def sign_statements(statements: Iterable[Mapping[str, Any]], signer: SigningKey) -> str:
    """Each statement in a signed envelope, a line for each.

    Raises:
        UsageError: the key cannot be used.
    """
    key = CryptoSigner(private_key(signer))
    lines = []
    for statement in statements:
        envelope = Envelope(json.dumps(statement).encode(), PAYLOAD_TYPE, {})
        envelope.sign(key)
        lines.append(json.dumps(envelope.to_dict()) + "\n")
    return "".join(lines)


def verified_statements(lines: Sequence[str], keys: Sequence[Path]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The statements in those of ``lines`` that one of ``keys`` signed, and the name of its file.

    All other lines are left out.

    Raises:
        UsageError: a key cannot be used.
    """
    named = {(key := _public_key(path)).keyid: (key, path.name) for path in keys}
    allowed = [key for key, _ in named.values()]
    for line in lines:
        try:
            statement, keyid = _statement(line, allowed)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - the library raises whatever a broken line leads to
            log.info("a line is not a statement by an allowed key: %s", type(error).__name__)
            continue
        if isinstance(statement, dict) and statement.get("_type") == STATEMENT_TYPE:
            yield statement, named[keyid][1]


def _statement(line: str, allowed: list[Key]) -> tuple[Any, str]:
    """The payload of an envelope and the id of the key that signed it; the library raises its own errors."""
    envelope = Envelope.from_dict(json.loads(line))
    keyid = next(iter(envelope.verify(allowed, 1)))
    return json.loads(envelope.payload) if envelope.payload_type == PAYLOAD_TYPE else None, keyid


def _public_key(path: Path) -> Key:
    try:
        return SSlibKey.from_crypto(load_pem_public_key(read_trusted(path)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a public key in PEM, or of no supported kind") from error
