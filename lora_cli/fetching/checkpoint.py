"""The checkpoints of a training run: folders ``checkpoint-N``, as the Trainer of transformers writes them."""

from dataclasses import replace

from lora_cli.core.log import logger
from lora_cli.core.reference import CHECKPOINT, below
from lora_cli.core.request import Request
from lora_cli.core.snapshot import Revision
from lora_cli.errors import FormatError, UsageError
from lora_cli.fetching.file_selection import is_adapter
from lora_cli.sources.registry import Sources

log = logger(__name__)


def resolve(request: Request, sources: Sources) -> Revision:
    """The revision that the reference means now, or the lock has for it; that of the latest checkpoint where asked.

    Raises:
        UsageError: the latest checkpoint of a web server, which does not list its folders.
        FormatError: see ``latest_checkpoint``.
        LoraCliError: what the source raises.
    """
    ref = request.locked_ref
    if request.selection.latest and ref.scheme in {"https", "http"}:
        raise UsageError(
            f"{ref}: a web server does not list its folders, so the latest checkpoint is unknown",
            hint="use the folder of one: checkpoint-N",
        )
    revision = sources.of(request.ref).resolve(ref)
    return latest_checkpoint(revision) if request.selection.latest else revision


def latest_checkpoint(revision: Revision) -> Revision:
    """``revision`` with the folder of its highest-numbered checkpoint as its root.

    A checkpoint without a config or weights, such as one that is being written, is skipped. Without any checkpoint it
    is the adapter at the root.

    Raises:
        FormatError: there is no adapter either.
    """
    folders = {file.path.partition("/")[0] for file in revision.files if "/" in file.path}
    numbered = sorted((int(found[1]), folder) for folder in folders if (found := CHECKPOINT.fullmatch(folder)))
    for _, folder in reversed(numbered):
        inside = _inside(revision, folder)
        if is_adapter([file.path for file in inside.files]):
            log.warning("%s: the latest checkpoint is %s", revision.ref, folder)
            return inside
        log.warning("%s: %s is skipped: it has no config or weights", revision.ref, folder)
    if not is_adapter(file.path for file in revision.files):
        hint = "use a folder with a folder checkpoint-N that has a config and weights"
        raise FormatError("there are no checkpoints here", where=str(revision.ref), hint=hint)
    log.warning("%s: there are no checkpoints, the adapter itself is used", revision.ref)
    return revision


def _inside(revision: Revision, folder: str) -> Revision:
    files = (file for file in revision.files if file.path.startswith(f"{folder}/"))
    inside = tuple(replace(file, path=file.path.removeprefix(f"{folder}/")) for file in files)
    return replace(revision, ref=below(revision.ref, folder), files=inside)
