"""``lora-cli push``: writes an adapter to an OCI registry."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import typer

from lora_cli.cli import options
from lora_cli.cli.adapter_selection import apply_policies
from lora_cli.cli.options import option
from lora_cli.cli.output import inform, write
from lora_cli.core.adapter_files import LARGEST_SIGNATURE, SIGNATURE, SIGNATURE_TYPE, VERDICT_TYPE
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.inspection import inspection_of
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Snapshot
from lora_cli.core.text import counted, size
from lora_cli.errors import FormatError, UsageError
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.pipeline import fetch
from lora_cli.fetching.verdicts import lines_by_snapshot
from lora_cli.pushing.artifact import Artifact, image, model_pack
from lora_cli.pushing.upload import Uploaded, attach, registry_client, upload
from lora_cli.reading.adapter import read_adapter
from lora_cli.settings import Settings
from lora_cli.sources.local import snapshot_at
from lora_cli.sources.oci import split_location
from lora_cli.store import Store
from lora_cli.store.disk import read_small
from lora_cli.validation import ref_of

ARTIFACT = "Artifact"

Layout = Literal["modelpack", "image"]

EXAMPLES = (
    "lora-cli push ./adapter oci://registry.example/loras/sql:v2",
    "lora-cli push acme/sql@v2 oci://registry.example/loras/sql:v2 --verdict sql.intoto.jsonl",
    "lora-cli push ./adapter oci://registry.example/loras/sql:v2 --as image",
)


def command(
    ctx: typer.Context,
    ref: str = typer.Argument(metavar="REF", help="A folder, or an adapter that is fetched first."),
    target: str = typer.Argument(metavar="TARGET", help="oci://REGISTRY/REPOSITORY[:TAG] (default tag: latest)."),
    layout: Layout = option(
        "--as LAYOUT",
        "modelpack: each file is a layer; image: a container image, with files in /models.",
        "modelpack",
        ARTIFACT,
    ),
    verdict: list[Path] | None = option(
        "--verdict FILE",
        "File of validate --attest, whose verdicts on the adapter are attached; may be repeated.",
        None,
        ARTIFACT,
    ),
    policy: options.PolicyFile = None,
) -> None:
    """Push an adapter to an OCI registry. Prints its reference, with the digest."""
    settings: Settings = apply_policies(ctx.obj, None, policy)
    to = _target(target)
    client = registry_client(to, settings)
    verdicts = {file: lines_by_snapshot(file) for file in verdict or []}
    with FetchContext(Store(settings.cache_dir), settings) as context:
        origin = ref_of(ref)
        snapshot = fetch(AdapterRequest("", origin), context).snapshot
        main = _artifact(snapshot, layout, to, ref)
        attached = [(VERDICT_TYPE, _verdicts_on(snapshot, file, lines)) for file, lines in verdicts.items()]
        if (signature := read_small(snapshot.directory / SIGNATURE, LARGEST_SIGNATURE)) is not None:
            attached.append((SIGNATURE_TYPE, signature))
        repository, tag = split_location(to.location)
        mount_from = split_location(origin.location)[0] if _registry(origin) == _registry(to) else ""
        count = upload(client, main, tag, str(to), mount_from)
        for media_type, data in attached:
            attach(client, main.top, media_type, data, str(to))
    inform(f"pushed {to}: {_counted(count)}", settings)
    write(f"{AdapterRef('oci', f'{_registry(to)}/{repository}', revision=main.top.digest)}\n")


def _target(text: str) -> AdapterRef:
    """The repository and tag that ``text`` names.

    Raises:
        UsageError: it is no ``oci://`` reference, or has a digest or a subfolder.
    """
    ref = ref_of(text)
    if ref.scheme != "oci":
        raise UsageError(f"{ref} is not in an OCI registry", hint="write oci://REGISTRY/REPOSITORY:TAG")
    if ref.revision is not None or ref.subfolder:
        raise UsageError(
            f"{ref}: a repository to push to has no digest and no folder", hint="write oci://REGISTRY/REPOSITORY:TAG"
        )
    return ref


def _verdicts_on(snapshot: Snapshot, file: Path, lines: Mapping[str, Sequence[str]]) -> bytes:
    """The lines of a file with verdicts on exactly these files.

    Raises:
        UsageError: there are none.
    """
    if snapshot.digest not in lines:
        hint = f"lora-cli validate REF --attest {shlex.quote(str(file))} --key KEY writes one"
        raise UsageError(f"{file} has no verdict on the snapshot {snapshot.digest}", hint=hint)
    return "".join(f"{line}\n" for line in lines[snapshot.digest]).encode()


def _artifact(snapshot: Snapshot, layout: Layout, to: AdapterRef, ref: str) -> Artifact:
    source, revision = snapshot_at(snapshot.directory)
    adapter = read_adapter(source, revision, ref)
    if error := adapter.config_error or adapter.weights_error:
        raise FormatError(f"{ref} is not pushed, because it cannot be read: {error.message}", hint=error.hint)
    inspection = inspection_of(adapter)
    if layout == "image":
        return image(snapshot, inspection)
    return model_pack(snapshot, inspection, split_location(to.location)[0].rpartition("/")[2])


def _registry(ref: AdapterRef) -> str:
    return ref.location.partition("/")[0] if ref.scheme == "oci" else ""


def _counted(count: Uploaded) -> str:
    parts = [f"{counted(count.sent, 'blob')} uploaded ({size(count.sent_bytes)})"]
    parts += [f"{count.mounted} from another repository"] if count.mounted else []
    parts += [f"{count.present} already there"] if count.present else []
    return ", ".join(parts)
