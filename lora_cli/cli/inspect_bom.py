"""``lora-cli inspect --format cyclonedx``: the bill of materials of the inspected adapters."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lora_cli.cli.adapter_selection import Inputs
from lora_cli.cli.output import inform, to_stderr, with_adapter_name, write
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.base_model import BaseModel
from lora_cli.core.inspection import Inspection
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Blob, snapshot_digest
from lora_cli.core.text import shown
from lora_cli.errors import UsageError
from lora_cli.render.cyclonedx import Material, render_bom
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of
from lora_cli.validation import Checked, ref_of
from lora_cli.validation.policy_check import files_to_fetch

Judged = tuple[Checked, Inspection | None]

EPOCH = "SOURCE_DATE_EPOCH"
"""The time of a reproducible build, in seconds since 1970: https://reproducible-builds.org/specs/source-date-epoch/"""


def check_bom_options(*, engine_args: str, diff: str | None) -> None:
    """Checks that nothing is asked for that a bill of materials does not have.

    Raises:
        UsageError: something is, or SOURCE_DATE_EPOCH is not a time.
    """
    options = {"--engine-args": engine_args, "--diff": diff is not None}
    for option in (option for option, given in options.items() if given):
        raise UsageError(f"--format cyclonedx does not contain {option}", hint=f"remove {option}, or use --format json")
    source_date()


def source_date() -> str:
    """The time in SOURCE_DATE_EPOCH as ``2026-11-29T00:00:00Z``, "" if it is not set.

    Raises:
        UsageError: it is not a number of seconds.
    """
    if not (text := os.environ.get(EPOCH, "")):
        return ""
    try:
        return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        hint = f"{EPOCH}=$(git log -1 --format=%ct)"
        raise UsageError(f"{EPOCH}: {shown(text)} is not a number of seconds since 1970", hint=hint) from error


def write_bom(
    judged: Sequence[Judged], inputs: Inputs, base: BaseModel | None, output: Path | None, settings: Settings
) -> int:
    """Writes the bill of ``judged``, the adapters of ``inputs`` in their order; gives the exit code.

    An adapter that could not be read has only its name there, and its error is on standard error.
    """
    materials = [_material(item, one, settings) for item, one in zip(inputs.items, judged, strict=True)]
    for one in materials:
        if (error := one.checked.error) is not None:
            to_stderr(f"error: {with_adapter_name(one.checked.name, error.message)}")
    named = [replace(one, name=one.checked.name if inputs.manifest is not None else "") for one in materials]
    write(render_bom(named, base, _served_on(inputs.base), source_date()), output)
    if output is not None and str(output) != "-":
        inform(f"wrote {output}", settings)
    return max(one.checked.read_code for one in materials)


def _material(item: AdapterRequest, judged: Judged, settings: Settings) -> Material:
    """An adapter with the files that a fetch would download: their sha256 are of this disk, the lock or the listing."""
    checked, inspection = judged
    if checked.error is not None or checked.revision is None:
        return Material(checked, inspection)
    known = checked.files or (item.locked.files if item.locked is not None else {})
    listed = sorted(files_to_fetch(checked.revision), key=lambda file: file.path)
    files = tuple(
        file if (blob := known.get(file.path)) is None else replace(file, sha256=blob.sha256, size=blob.size)
        for file in listed
    )
    blobs = [(file.path, Blob(file.sha256, file.size)) for file in files if file.sha256 and file.size is not None]
    return Material(
        checked,
        inspection,
        files=files,
        snapshot=snapshot_digest(blobs) if blobs and len(blobs) == len(files) else "",
        endpoint=endpoint_of(checked.revision.ref, settings),
    )


def _served_on(base: str | AdapterRef) -> AdapterRef | None:
    """The reference of the base model; None without one."""
    with suppress(UsageError):
        return ref_of(base) if base else None
    return None
