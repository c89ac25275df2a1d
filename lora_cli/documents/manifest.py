"""``AdapterSet``: which adapters, for which base, under which policy; and the YAML that says so."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from lora_cli.documents.document import (
    Document,
    Head,
    Mistake,
    Model,
    mappings,
    mistake,
    parse_document,
    repeats,
)
from lora_cli.documents.field_types import (
    Context,
    File,
    Maybe,
    Name,
    Reference,
    Several,
    Sha256,
    Version,
    choice,
    reference_of,
    whole,
)
from lora_cli.documents.policy import ManifestPolicy, Policy, policy_of, repeated
from lora_cli.finding import ENGINE_NAMES
from lora_cli.refs.reference import LATEST_FOLDER, AdapterRef, training_run
from lora_cli.refs.request import Request, Selection

Count = Annotated[int, whole(1, 100_000)]


class EngineSpec(Model):
    """The engine that the set is for, and its limits."""

    name: Annotated[str, choice(ENGINE_NAMES, "the name of an engine")]
    """The name of the engine, as in lora-cli engines."""
    version: Maybe[Version] = None
    """The version that adapters are validated for (default: the newest known version)."""
    max_lora_rank: Maybe[Count] = None
    """The engine's --max-lora-rank."""
    max_loras: Maybe[Count] = None
    """Maximum number of adapters in one batch: the slots of warm."""
    max_cpu_loras: Maybe[Count] = None
    """Maximum number of adapters in memory."""

    @property
    def wanted(self) -> str:
        """NAME or NAME@VERSION."""
        return f"{self.name}@{self.version}" if self.version else self.name

    @field_validator("max_cpu_loras")
    @classmethod
    def _at_least_max_loras(cls, value: int | None, info: ValidationInfo) -> int | None:
        slots = info.data.get("max_loras")
        if value and slots and value < slots:
            raise mistake(f"{value} is less than max_loras, which is {slots}", f"max_cpu_loras: {slots}")
        return value


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """A manifest, parsed. ``base`` is None when it names none, ``base_written`` how the manifest has it.

    ``file`` is what errors call it.
    """

    file: str
    base: AdapterRef | None
    base_written: str
    engine: EngineSpec | None
    policy: Policy | None
    adapters: tuple[Request, ...]


class ManifestAdapter(Model):
    """One adapter of the set, as written in the file."""

    instead: ClassVar = {
        "revision": "put it in the source: hf://ORG/NAME@REVISION",
        "subfolder": "put it in the source: hf://ORG/NAME/SUBFOLDER",
        "checkpoint": f"put it in the source: hf://ORG/RUN/checkpoint-100, or {LATEST_FOLDER}",
        **dict.fromkeys(("path", "url", "repo", "repo_id", "lora_path"), "source: a path or a reference"),
    }

    name: Name
    """The name of the adapter, also in requests to an engine; valid as the name of a folder."""
    source: Reference
    """A path or a reference. The last folder may be checkpoint-latest: the latest checkpoint of a training run."""
    sha256: Maybe[Sha256] = None
    """The required snapshot digest."""
    signature: Maybe[File] = None
    """A file with its signature, if the source has no model.sig of its own."""
    pinned: bool = False
    """Never evicted from the GPU tier."""


class ManifestFile(Head):
    """Which LoRA adapters, for which base, under which policy."""

    instead: ClassVar = {"sources": "how a source is reached is the operator's: write [[sources]] in the settings file"}

    kind: Literal["AdapterSet"]
    """The kind of this file."""
    base: Maybe[Reference] = None
    engine: Maybe[EngineSpec] = None
    """The engine that the set is for, and its limits."""
    policy: Maybe[ManifestPolicy] = None
    """The rules that adapters must pass, in addition to the operator's policy."""
    adapters: Annotated[Several[ManifestAdapter], Field(min_length=1)]
    """Names are unique."""


def load_manifest(text: str, where: str, *, is_path: Callable[[str], bool], base_dir: Path | None = None) -> AdapterSet:
    """The adapter set in ``text``; ``where`` is what errors call the file.

    ``is_path`` says whether a reference, as it is written, exists as a path seen from ``base_dir`` (None: the folder of
    ``where``), from which all relative paths are taken.

    Raises:
        UsageError: every mistake with file, line, key, and the nearest known key.
    """
    context = Context(base_dir if base_dir is not None else Path(where).parent, is_path)
    document = parse_document(text, where, "AdapterSet")
    found = document.read(ManifestFile, context, lambda value: _across(document, value))
    return AdapterSet(
        file=where,
        base=reference_of(found.base, context) if found.base is not None else None,
        base_written=found.base or "",
        engine=found.engine,
        policy=policy_of(found.policy, document, "policy") if found.policy is not None else None,
        adapters=tuple(
            Request(
                one.name,
                reference_of(training_run(one.source) or one.source, context),
                one.sha256,
                one.pinned,
                selection=Selection(latest=bool(training_run(one.source))),
                signature=Path(one.signature) if one.signature is not None else None,
                written=one.source,
                at=document.at("adapters", number),
            )
            for number, one in enumerate(found.adapters)
        ),
    )


def _across(document: Document, value: Any) -> Iterator[Mistake]:
    """Names that appear twice, and more pinned adapters than slots, in a manifest that was not validated yet."""
    for number, first, (name,) in repeats(value, "adapters", "name"):
        if name:
            line = document.line("adapters", first, "name")
            message = f"{name[:128]} is already the name of the adapter in line {line}"
            yield Mistake(("adapters", number, "name"), message, f"name: {name[:128]}-2")
    pinned = sum(one.get("pinned") is True for _, one in mappings(value, "adapters"))
    engine = value.get("engine") if isinstance(value, dict) else None
    slots = engine.get("max_loras") if isinstance(engine, dict) else None
    if isinstance(slots, int) and not isinstance(slots, bool) and 0 < slots < pinned:
        message = f"{pinned} adapters are pinned, but max_loras is {slots}"
        yield Mistake(("engine",), message, f"max_loras: {pinned}")
    yield from repeated(document, value.get("policy") if isinstance(value, dict) else None, "policy")
