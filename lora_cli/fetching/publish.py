"""From a snapshot to a folder that an engine's resolver takes: it must be LoRA, and for the base that is served."""

import json
from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.adapter_files import CONFIG
from lora_cli.core.json_schema import Sha256
from lora_cli.core.parse import json_object
from lora_cli.core.snapshot import Snapshot
from lora_cli.core.text import shown
from lora_cli.errors import FormatError, Refused
from lora_cli.store import Store
from lora_cli.store.disk import read_small
from lora_cli.store.published import Publication, publish

LARGEST_CONFIG = 8_000_000
BASE = "base_model_name_or_path"


@dataclass(frozen=True, slots=True)
class Served:
    """Under which name an engine serves the base: ``name`` (None: nobody said), and whether configs are made to say it.

    vLLM's filesystem resolver takes an adapter only when its config names the base exactly as ``--model`` does.
    """

    name: str | None = None
    fix: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: the base that its config names, the one that it ``was``, and the digest of its files."""

    base: str
    was: str
    sha256: Sha256


def publish_adapter(store: Store, snapshot: Snapshot, target: Path, served: Served) -> Published:
    """Publishes a snapshot as ``target``; with ``served.fix`` the base's name is corrected in the copy of its config.

    The cache is left as it is. See ``store.published`` for what may be replaced, and how.

    Raises:
        Refused: a resolver would not take it: it is no LoRA, or for another base.
        FormatError: its config cannot be read.
        UsageError, LostBlob, MachineError: see ``store.published``.
    """
    where = f"{target.name}: {CONFIG}"
    data = read_small(snapshot.directory / CONFIG, LARGEST_CONFIG)
    if data is None:
        raise FormatError(f"there is none of at most {LARGEST_CONFIG} bytes", where=where)
    config = json_object(data, where)
    if config.get("peft_type") != "LORA":
        raise Refused(
            f"{where}: peft_type is {shown(config.get('peft_type'))}",
            hint="a resolver takes LORA alone, and answers 404 for anything else",
        )
    was = config.get(BASE)
    if served.name is None and not isinstance(was, str):
        raise Refused(f"{where}: {BASE} is {shown(was)}", hint="--fix-base NAME sets it in the published copy")
    name = served.name if served.name is not None else str(was)
    if name != was and not served.fix:
        raise Refused(
            f"{where}: {BASE} is {shown(was)}, and {shown(name)} is served: a resolver compares them letter by letter",
            hint=f"if it is the same model, --fix-base {name} corrects the published copy",
        )
    edited = {} if name == was else {CONFIG: json.dumps({**config, BASE: name}, indent=2).encode() + b"\n"}
    publication = Publication(snapshot, edited)
    publish(store, publication, target)
    return Published(name, was if isinstance(was, str) else "", publication.digest)
