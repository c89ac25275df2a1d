"""``AdapterSet``: which adapters, for which base, under which policy; and the YAML that says so."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from lora_cli.documents.document import Head, Model, parse_yaml, read_text
from lora_cli.documents.fields import File, Name, Reference, Sha256, Version, reference_of, unique
from lora_cli.documents.policy import Policy
from lora_cli.refs.reference import AdapterRef, training_run
from lora_cli.refs.request import Request, Selection

Count = Annotated[int, Field(ge=1, le=100_000)]


class EngineSpec(Model):
    """The engine that the set is for, and its limits."""

    name: Literal["vllm", "sglang", "peft"]
    """The name of the engine, as in lora-cli engines."""
    version: Version | None = None
    """The version that adapters are validated for (default: the newest known version)."""
    max_lora_rank: Count | None = None
    """The engine's --max-lora-rank."""
    max_loras: Count | None = None
    """Maximum number of adapters in one batch: the slots of warm."""
    max_cpu_loras: Count | None = None
    """Maximum number of adapters in memory."""

    @property
    def wanted(self) -> str:
        """NAME or NAME@VERSION."""
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """A manifest, parsed; ``base_written`` is the base as it is written ("" for none), ``file`` the manifest's path."""

    file: str
    base: AdapterRef | None
    base_written: str
    engine: EngineSpec | None
    policy: Policy | None
    adapters: tuple[Request, ...]


class ManifestAdapter(Model):
    """One adapter of the set, as written in the file."""

    name: Name
    """The name of the adapter, also in requests to an engine; valid as the name of a folder."""
    source: Reference
    """A path or a reference with its folder and revision: hf://ORG/NAME/FOLDER@REVISION. The last folder may be
    checkpoint-latest: the latest checkpoint of a training run.
    """
    sha256: Sha256 | None = None
    """The required digest of the snapshot, as shown by lora-cli cache ls; not of one file."""
    signature: File | None = None
    """A file with its signature, if the source has no model.sig of its own."""
    pinned: bool = False
    """Never evicted from the GPU tier."""


class ManifestFile(Head):
    """Which LoRA adapters, for which base, under which policy."""

    instead: ClassVar = {"sources": "how a source is reached is the operator's: write [[sources]] in the settings file"}

    kind: Literal["AdapterSet"]
    """The kind of this file."""
    base: Reference | None = None
    """The base model: a path or a reference. Relative paths are relative to this file."""
    engine: EngineSpec | None = None
    """The engine that the set is for, and its limits."""
    policy: Policy | None = None
    """The rules that adapters must pass, in addition to the operator's policy."""
    adapters: Annotated[tuple[ManifestAdapter, ...], Field(min_length=1), AfterValidator(unique)]
    """Names are unique."""


def read_manifest(path: Path) -> AdapterSet:
    """The adapter set in a file; for ``-`` on standard input, with paths relative to the working directory.

    Raises:
        NotFound: there is no such file.
        UsageError: every mistake with file, line, key, and the nearest known key.
        MachineError: it cannot be read.
    """
    base_dir, document = path.absolute().parent, parse_yaml(read_text(path, "manifest"), str(path))
    found = document.read(ManifestFile, base_dir)
    return AdapterSet(
        file=document.file,
        base=reference_of(found.base, base_dir) if found.base is not None else None,
        base_written=found.base or "",
        engine=found.engine,
        policy=found.policy,
        adapters=tuple(
            Request(
                one.name,
                reference_of(training_run(one.source) or one.source, base_dir),
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
